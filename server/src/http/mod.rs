//! The server on the network: routes, and what happens around every request.
//!
//! Every refusal has an [`Issue`] as its body; see [`akene_protocol::api`] for the calls of machines and
//! [`admin`] for those of the administrator.

mod admin;
mod agent;
mod auth;
mod limit;
mod locks;
mod orders;
mod page;
mod pool;
mod refusal;
mod reports;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_protocol::api::MAX_BODY;
use akene_protocol::report::LARGEST as LARGEST_REPORT;
use akene_protocol::{Issue, MachineId, Sha256};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use axum::{Router, http};
use ed25519_dalek::SigningKey;
use tokio::sync::Semaphore;

use crate::board::Board;
use crate::db::{Db, requests};
use crate::opening::Crowd;
use crate::pool::Pool;
use crate::site::Site;
use limit::Limiter;
use refusal::Refusal;
pub use reports::Places;

/// What every handler works with.
pub struct Shared {
    /// The site directory.
    pub site: Site,
    /// The database.
    pub db: Db,
    /// The key documents are signed with.
    pub key: SigningKey,
    /// Sum of the administrator's token.
    pub admin: Sha256,
    /// Who showed wrong secrets lately.
    pub limiter: Limiter,
    /// Package files.
    pub pool: Pool,
    /// Places for those that are being given out.
    pub streams: Arc<Semaphore>,
    /// Places for reports that are being read.
    pub reports: Places,
    /// The open orders.
    pub board: Board,
    /// Places for machines that wait for one.
    pub waiting: Arc<Semaphore>,
    /// Seconds after which machines ask again.
    pub poll_seconds: u32,
}

/// The longest a request may take, its body included. Slow lines are slower than our disks.
const REQUEST_TIME: Duration = Duration::from_secs(120);

/// A machine that proved who it is; handlers leave it on their answers for the list of requests.
#[derive(Clone, Copy, Debug)]
struct Who(MachineId);

/// On an answer that is not worth a line in the list of requests: it is given ten thousand times in five minutes.
#[derive(Clone, Copy, Debug)]
struct Quiet;

/// All routes. An enrolment may hold that many bytes.
pub fn router(shared: Arc<Shared>, enrolment_bytes: usize) -> Router {
    Router::new()
        .route("/v1/time", get(agent::time))
        // Nobody has proved anything yet when this comes: the inner of two limits counts.
        .route("/v1/enrol", post(agent::enrol).layer(DefaultBodyLimit::max(enrolment_bytes)))
        .route("/v1/reports", post(reports::take).layer(DefaultBodyLimit::max(LARGEST_REPORT)))
        .route("/v1/runs", post(agent::runs))
        .route("/v1/events", post(agent::events))
        .route("/v1/logs/{run}/{name}", post(agent::logs))
        .route("/v1/pool/sha256/{hash}", get(pool::file))
        .route("/v1/profiles/{name}/lock", get(locks::get))
        .route("/v1/orders", get(orders::list))
        .route("/v1/orders/{id}", post(orders::report))
        .route("/v1/orders/{id}/profile", get(orders::profile))
        .route("/v1/inventory", post(orders::inventory))
        .route("/v1/admin/orders", get(admin::orders))
        .route("/v1/admin/orders/{id}", delete(admin::cancel))
        .route("/v1/admin/machines/{machine}/orders", post(admin::order))
        .route("/v1/admin/machines", get(admin::machines))
        .route("/v1/admin/machines/{machine}", get(admin::machine))
        .route("/v1/admin/machines/{machine}/plan.svg", get(admin::picture))
        .route("/v1/admin/machines/{machine}/allow", post(admin::allow))
        .route("/v1/admin/machines/{machine}/logs/{run}/{name}", get(admin::log))
        .route("/", get(page::fleet))
        .route("/machines/{machine}", get(page::machine))
        .route("/machines/{machine}/plan.svg", get(admin::picture))
        .fallback(async || {
            Refusal::new(StatusCode::NOT_FOUND, "no-such-page", "there is nothing at this address")
        })
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong-method",
                "this address wants another HTTP method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// The answer to everything on a connection too many. It is written to no list: that would cost what the limit
/// saves.
fn crowded(version: http::Version) -> Response {
    let issue = Issue::new(
        "too-many-connections",
        "",
        "this server has as many connections as it may have",
        "wait, it is asked again; if it stays like that, raise `limits.connections` in site.toml and restart the server",
    );
    let refusal = Refusal::of(StatusCode::SERVICE_UNAVAILABLE, issue);
    let mut response = refusal.retry_after(Duration::from_secs(30)).into_response();
    if version <= http::Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Bounds every request in time, keeps it in the list, and says what browsers must know.
async fn around(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if request.extensions().get::<Crowd>().is_some() {
        return crowded(request.version());
    }
    let start = Instant::now();
    let method = request.method().as_str().chars().take(16).collect();
    let path: String = request.uri().path().chars().take(200).collect();
    let mut response = match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            format!("the request was not complete after {} seconds", REQUEST_TIME.as_secs()),
        )
        .into_response(),
    };
    if response.extensions().get::<Quiet>().is_none() {
        let entry = requests::Request {
            peer: peer.ip().to_canonical().to_string(),
            method,
            path,
            status: response.status().as_u16(),
            machine: response.extensions().get::<Who>().map(|who| who.0),
            ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        if let Err(trouble) = shared.db.call(move |db| Ok(requests::keep(db, &entry)?)).await {
            eprintln!("keeping a request: {:#}", trouble.into_error());
        }
    }
    // A file that never changes says so itself.
    let lasting = HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(lasting);
    let headers: [(http::HeaderName, &'static str); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
