//! The server on the network: routes, and what happens around every request.
//!
//! Every refusal has an [`Issue`] as its body; see [`akene_protocol::api`] for the calls of machines and
//! [`admin`] for those of the administrator.

mod admin;
mod agent;
mod auth;
mod limit;
mod page;
mod refusal;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use akene_protocol::api::MAX_BODY;
use akene_protocol::{MachineId, Sha256};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use ed25519_dalek::SigningKey;

use crate::db::{Db, requests};
use crate::site::Site;
use limit::Limiter;
use refusal::Refusal;

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
}

/// The longest a request may take, its body included. Slow lines are slower than our disks.
const REQUEST_TIME: Duration = Duration::from_secs(120);

/// A machine that proved who it is; handlers leave it on their answers for the list of requests.
#[derive(Clone, Copy, Debug)]
struct Who(MachineId);

/// All routes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/time", get(agent::time))
        .route("/v1/enrol", post(agent::enrol))
        .route("/v1/runs", post(agent::runs))
        .route("/v1/events", post(agent::events))
        .route("/v1/logs/{run}/{name}", post(agent::logs))
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

/// Bounds every request in time, keeps it in the list, and says what browsers must know.
async fn around(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
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
    let headers: [(http::HeaderName, &'static str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
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
