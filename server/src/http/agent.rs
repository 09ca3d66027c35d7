//! The calls of machines: [`akene_protocol::api`].

use std::sync::Arc;

use akene_protocol::api::{
    EnrolRequest, EnrolResponse, EventBatch, EventsAccepted, MAX_EVENTS, RunRequest, RunResponse, Time,
};
use akene_protocol::event::EventKind;
use akene_protocol::inventory;
use akene_protocol::{Envelope, Issue, RunId};
use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::auth::{Machine, Peer};
use super::refusal::Refusal;
use super::{Shared, Who};
use crate::db::{events as event_store, machines, orders, runs as run_store};
use crate::grant::{self, May, Ordered};
use crate::order;
use crate::site::{Chosen, SiteConfig};

type Body = Result<Bytes, BytesRejection>;
type Answer<T> = Result<(Extension<Who>, Json<T>), Refusal>;

/// Reads a JSON body whatever its media type says.
pub(super) fn json<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    serde_json::from_slice(&body?).map_err(|error| {
        Refusal::bad(
            "request-unreadable",
            format!("the request cannot be read: {error}"),
            "use an agent and a server of the same version",
        )
    })
}

pub(super) fn check_inventory(inventory: &inventory::Inventory) -> Result<(), Refusal> {
    match inventory.version {
        inventory::VERSION => Ok(()),
        version => Err(Refusal::bad(
            "inventory-version",
            format!("the inventory has version {version}, this server reads version {}", inventory::VERSION),
            "update the older one of medium and server",
        )),
    }
}

/// `GET /v1/time`.
pub async fn time() -> Json<Time> {
    Json(Time { now: Timestamp::now() })
}

/// `POST /v1/enrol`.
pub async fn enrol(State(shared): State<Arc<Shared>>, peer: Peer, body: Body) -> Answer<EnrolResponse> {
    let request: EnrolRequest = json(body)?;
    let tokens = shared.site.tokens()?;
    let Some(token) = tokens.find(&request.token, Timestamp::now()).map(|token| token.id.clone()) else {
        let issue = Issue::new(
            "token-refused",
            "",
            "this server does not accept the token of the medium",
            "stamp the medium again with a token that counts: `akene-server token new` makes one",
        );
        return Err(shared.limiter.refuse(peer.0.ip(), issue).await);
    };
    let most_new = shared.site.config()?.limits.new_machines_per_hour;
    check_inventory(&request.inventory)?;
    let (identity, recognised) = shared
        .db
        .call(move |db| {
            let peer = peer.text();
            let enrolment = machines::Enrolment {
                known: request.known.as_ref(),
                inventory: &request.inventory,
                peer: &peer,
                token: &token,
                most_new,
            };
            machines::enrol(db, &enrolment)
        })
        .await?;
    Ok((Extension(Who(identity.machine)), Json(EnrolResponse { identity, recognised })))
}

/// `POST /v1/runs`.
pub async fn runs(State(shared): State<Arc<Shared>>, machine: Machine, body: Body) -> Answer<RunResponse> {
    let request: RunRequest = json(body)?;
    check_inventory(&request.inventory)?;
    let who = Extension(Who(machine.id));
    let names_an_order = request.order.is_some();
    let response = {
        let shared = shared.clone();
        let db = shared.db.clone();
        db.call(move |db| {
            run_store::open(db, machine.id, request.run)?;
            machines::update(db, machine.id, &machine.peer, &request.inventory)?;
            if let Some(answer) = grant::again(db, &shared.key, machine.id, request.run)? {
                return Ok(Ok(answer));
            }
            let known = machines::get(db, machine.id)?;
            let ordered = request.order.map(|id| grant::by_order(db, &known, id, request.run)).transpose()?;
            let chosen = match &ordered {
                Some(Ok(ordered)) => site_answer(&shared, |config| {
                    let chosen =
                        order::profile(&shared.site, &known, &request.inventory, &ordered.reinstall)?;
                    Ok((config, chosen))
                }),
                _ => site_answer(&shared, |config| {
                    let (asset, name) = (Some(known.asset), request.profile.as_deref());
                    let chosen = shared.site.choose(&config, &request.inventory, asset, name)?;
                    Ok((config, chosen))
                }),
            };
            let (config, mut chosen) = match chosen {
                Ok(found) => found,
                Err(error) => {
                    // The administrator sees it too: the machine waits for them.
                    let refusal = Refusal::from(error);
                    run_store::keep_refusal(db, request.run, refusal.issue())?;
                    return Ok(Err(refusal));
                }
            };
            // Who has given up trying waits for a person, whatever an order says; what the person permits then counts.
            let decision = match (grant::tired(request.attempts, &known), ordered, request.order) {
                (Some(issue), ..) => Err(issue),
                (None, Some(Ok(Ordered { reinstall, may: May::Order })), Some(id)) => {
                    orders::use_up(db, id, request.run)?;
                    let ordered = grant::of_reinstall(&reinstall, &mut chosen.bundle);
                    Ok(known.allowed.filter(|_| request.attempts.is_some()).unwrap_or(ordered))
                }
                // The order is not this run's: none may go on with it and have the order's permission.
                (None, Some(Ok(Ordered { may: May::Person(consent), .. })), _) => Ok(consent),
                // An order that counts no more takes nothing away from what the machine may without one.
                (None, Some(Err(issue)), _) => grant::decide(db, &config, &known)?.map_err(|_| issue),
                (None, ..) => grant::decide(db, &config, &known)?,
            };
            let consent = decision.as_ref().ok().copied();
            let (grant, refusal) = match decision {
                Ok(consent) => {
                    machines::take_allowed(db, machine.id)?;
                    (Some(grant::sign(&shared.key, machine.id, request.run, consent)), None)
                }
                Err(issue) => (None, Some(issue)),
            };
            let profile = Envelope::sign(&chosen.bundle, &shared.key);
            let response = RunResponse { profile, grant, refusal };
            run_store::keep_answer(
                db,
                request.run,
                &run_store::Answer {
                    credential: &machine.credential,
                    inventory: &serde_json::to_string(&request.inventory).context("encoding an inventory")?,
                    response: &response,
                    profile: &chosen.bundle.name,
                    revision: &chosen.bundle.revision,
                    why: &chosen.why,
                    consent,
                },
            )?;
            Ok(Ok(response))
        })
        .await??
    };
    if names_an_order {
        super::orders::refresh(&shared).await?;
    }
    Ok((who, Json(response)))
}

/// What the site directory says now, to a machine that asks what to do.
fn site_answer(
    shared: &Shared,
    choose: impl FnOnce(SiteConfig) -> anyhow::Result<(SiteConfig, Chosen)>,
) -> anyhow::Result<(SiteConfig, Chosen)> {
    shared.site.config().and_then(choose)
}

/// `POST /v1/events`.
pub async fn events(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    body: Body,
) -> Answer<EventsAccepted> {
    let batch: EventBatch = json(body)?;
    if batch.events.len() > MAX_EVENTS {
        return Err(Refusal::bad(
            "too-many-events",
            format!("{} events in one request", batch.events.len()),
            &format!("send at most {MAX_EVENTS} at a time"),
        ));
    }
    let id = machine.id;
    // An installation may end orders.
    let confirmed = batch.events.iter().any(|event| matches!(event.kind, EventKind::Confirmed { .. }));
    let new = shared.db.call(move |db| event_store::keep(db, id, &batch.events)).await?;
    if confirmed {
        super::orders::refresh(&shared).await?;
    }
    Ok((Extension(Who(id)), Json(EventsAccepted { new })))
}

/// `POST /v1/logs/RUN/NAME`.
pub async fn logs(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    Path((run, name)): Path<(String, String)>,
    body: Body,
) -> Result<(StatusCode, Extension<Who>), Refusal> {
    let run: RunId = run.parse().map_err(|e: String| Refusal::bad("run-id", e, "send the id of the run"))?;
    // What is no UTF-8 in a log is worth keeping all the same.
    let text = String::from_utf8_lossy(&body?).into_owned();
    let id = machine.id;
    let most = shared.site.config()?.limits.log_bytes_per_machine;
    shared.db.call(move |db| event_store::keep_log(db, id, run, &name, &text, most)).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Who(id))))
}
