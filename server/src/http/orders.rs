//! Orders, as machines ask for them and tell about them.
//!
//! `GET /v1/orders` is what every installed machine asks every few minutes, for ever. Answered "nothing new" it
//! reads one row by its key and writes nothing, neither to the list of requests nor when the machine was seen: that is
//! remembered, and written down once a minute for all.

use std::sync::Arc;
use std::time::Duration;

use akene_protocol::api::{POLL_HEADER, WAIT_HEADER};
use akene_protocol::order::{OrderId, Progress};
use akene_protocol::{Envelope, Inventory, Issue, MachineId};
use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use tokio::time::Instant;

use super::agent::{check_inventory, json};
use super::auth::{Machine, Poller};
use super::refusal::Refusal;
use super::{Quiet, Shared, Who};
use crate::db::machines;
use crate::db::orders;
use crate::grant;
use crate::order;

/// The longest a question is kept waiting. Home routers forget a connection on which nothing comes after a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(50);

/// `?wait=SECONDS`.
#[derive(Deserialize)]
pub struct Wait {
    #[serde(default)]
    wait: u32,
}

/// `GET /v1/orders`.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    Poller(machine): Poller,
    Query(Wait { wait }): Query<Wait>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    let knows = |tag: &str| known.split(',').any(|t| t.trim() == tag);
    let mut changes = shared.board.changes();
    let mut tag = shared.board.tag(machine);
    // Whoever finds no place to wait is answered at once, and asks again at its usual interval.
    let place = shared.waiting.clone().try_acquire_owned().ok();
    if let (true, true, Some(_)) = (knows(&tag), shared.board.is_watched(), &place) {
        let end = Instant::now() + LONGEST_WAIT.min(Duration::from_secs(wait.into()));
        while knows(&tag) && Instant::now() < end {
            match tokio::time::timeout_at(end, changes.changed()).await {
                Ok(Ok(())) => tag = shared.board.tag(machine),
                _ => break,
            }
        }
    }
    let fresh = knows(&tag);
    let mut response = match fresh {
        true => (Extension(Quiet), StatusCode::NOT_MODIFIED).into_response(),
        false => Json(shared.board.orders(machine)).into_response(),
    };
    let number = |value: u32| HeaderValue::from(value);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).context("writing an entity tag")?);
    headers.insert(POLL_HEADER, number(shared.poll_seconds));
    if place.is_some() && shared.board.is_watched() {
        headers.insert(WAIT_HEADER, number(u32::try_from(LONGEST_WAIT.as_secs()).unwrap_or(u32::MAX)));
    }
    response.extensions_mut().insert(Who(machine));
    Ok(response)
}

fn id_of(text: &str) -> Result<OrderId, Refusal> {
    text.parse().map_err(|e: String| Refusal::bad("order-id", e, "send the id of the order"))
}

/// `POST /v1/orders/ID`: how far it is.
pub async fn report(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Extension<Who>), Refusal> {
    let (id, progress): (_, Progress) = (id_of(&id)?, json(body)?);
    let who = machine.id;
    shared.db.call(move |db| orders::report(db, who, id, progress)).await?;
    refresh(&shared).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Who(who))))
}

/// `GET /v1/orders/ID/profile`: what a reinstallation would be done with, so that its packages can be fetched
/// before.
pub async fn profile(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    Path(id): Path<String>,
) -> Result<(Extension<Who>, Json<Envelope>), Refusal> {
    let (id, who) = (id_of(&id)?, machine.id);
    let (machine, reinstall) = shared
        .db
        .call(move |db| {
            let order = orders::own(db, who, id)?;
            match order.reinstall() {
                Some(reinstall) if order.state.is_open() => Ok((machines::get(db, who)?, reinstall.clone())),
                _ => Err(crate::db::Trouble::Refused(orders::over(&order))),
            }
        })
        .await?;
    // Many files are read, and nobody waits for the database meanwhile.
    let envelope = tokio::task::spawn_blocking(move || {
        let mut chosen = order::profile(&shared.site, &machine, &machine.inventory, &reinstall)?;
        grant::of_reinstall(&reinstall, &mut chosen.bundle);
        anyhow::Ok(Envelope::sign(&chosen.bundle, &shared.key))
    })
    .await
    .context("putting a profile together")??;
    Ok((Extension(Who(who)), Json(envelope)))
}

/// `POST /v1/inventory`.
pub async fn inventory(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Extension<Who>), Refusal> {
    let inventory: Inventory = json(body)?;
    check_inventory(&inventory)?;
    let who = machine.id;
    shared.db.call(move |db| Ok(machines::update(db, who, &machine.peer, &inventory)?)).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Who(who))))
}

/// Shows machines at once what was changed by this server itself.
pub(super) async fn refresh(shared: &Arc<Shared>) -> Result<(), Refusal> {
    let shared = shared.clone();
    Ok(tokio::task::spawn_blocking(move || shared.board.refresh())
        .await
        .context("reading the open orders")??)
}

/// A machine whose credential is wrong.
pub(super) fn stranger() -> Issue {
    Issue::new(
        "credential-refused",
        "",
        "this server does not know the credential",
        "start the computer from the medium again, so that it enrols anew",
    )
}

/// Which machine this is. The same check as for every other call, without a write.
pub(super) async fn known(
    shared: &Arc<Shared>,
    id: MachineId,
    secret: akene_protocol::Secret,
) -> Result<bool, Refusal> {
    let shared = shared.clone();
    Ok(tokio::task::spawn_blocking(move || shared.board.authenticate(id, &secret))
        .await
        .context("looking up a credential")??)
}
