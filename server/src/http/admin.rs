//! The administrator's calls, authorised by `Authorization: Bearer TOKEN` with the token in
//! `secrets/admin-token`.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/admin/machines` | `{"machines": [`[`Summary`](crate::view::Summary)`], "waiting": [`[`Waiting`](crate::view::Waiting)`]}` |
//! | `GET /v1/admin/machines/ID` | [`Detail`](crate::view::Detail): inventory, plan, runs, events, notes |
//! | `GET /v1/admin/machines/ID/plan.svg` | its disks before and after the installation, drawn; also at `/machines/ID/plan.svg` |
//! | `POST /v1/admin/machines/ID/allow` | body `{"consent": "blank"}` or `"wipe"`; 204 |
//! | `POST /v1/admin/machines/ID/orders` | body [`Wish`](crate::order::Wish); the order as [`OrderView`](crate::view::OrderView) |
//! | `GET /v1/admin/orders` | `{"orders": [OrderView]}`, newest first |
//! | `DELETE /v1/admin/orders/ID` | takes an order back; 204 |
//! | `GET /v1/admin/machines/ID/logs/RUN/NAME` | the log as text |
//!
//! `ID` is a machine id or an asset number.

use std::sync::Arc;

use akene_protocol::api::Consent;
use akene_protocol::{Issue, RunId};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::auth::Admin;
use super::refusal::Refusal;
use crate::db::{Trouble, events, machines as store, orders as order_store, runs};
use crate::{order, picture, view};

/// Answer of `GET /v1/admin/machines`.
#[derive(Serialize)]
pub struct Fleet {
    machines: Vec<view::Summary>,
    waiting: Vec<view::Waiting>,
}

/// Body of `POST /v1/admin/machines/ID/allow`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    consent: Consent,
}

/// All machines.
pub async fn machines(_: Admin, State(shared): State<Arc<Shared>>) -> Result<Json<Fleet>, Refusal> {
    let (machines, waiting) = shared.db.call(|db| Ok((view::list(db)?, view::waiting(db)?))).await?;
    Ok(Json(Fleet { machines, waiting }))
}

/// One machine.
pub async fn machine(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<view::Detail>, Refusal> {
    let detail = shared.db.call(move |db| Ok(view::detail(db, &store::find(db, &name)?)?)).await?;
    Ok(Json(detail))
}

/// The picture of one machine's disks.
pub async fn picture(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let (_, picture) = with_picture(&shared, name).await?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml; charset=utf-8")], picture).into_response())
}

/// One machine, and the picture of its disks.
pub(super) async fn with_picture(shared: &Shared, name: String) -> Result<(view::Detail, String), Refusal> {
    let (machine, detail) = shared
        .db
        .call(move |db| {
            let machine = store::find(db, &name)?;
            let detail = view::detail(db, &machine)?;
            Ok::<_, Trouble>((machine, detail))
        })
        .await?;
    let picture = picture::of(&shared.site, &machine, detail.plan.as_ref())?;
    Ok((detail, picture))
}

/// Permits one installation.
pub async fn allow(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let Allow { consent } = serde_json::from_slice(&body?)
        .map_err(|e| Refusal::bad("request-unreadable", format!("the request cannot be read: {e}"), ""))?;
    shared
        .db
        .call(move |db| {
            let machine = store::find(db, &name)?;
            store::allow(db, machine.id, consent)
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All orders.
#[derive(Serialize)]
pub struct Orders {
    orders: Vec<view::OrderView>,
}

/// The orders of all machines.
pub async fn orders(_: Admin, State(shared): State<Arc<Shared>>) -> Result<Json<Orders>, Refusal> {
    let orders = shared.db.call(|db| Ok(view::orders(db)?)).await?;
    Ok(Json(Orders { orders }))
}

/// Gives a machine an order.
pub async fn order(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<view::OrderView>), Refusal> {
    let wish: order::Wish = serde_json::from_slice(&body?)
        .map_err(|e| Refusal::bad("request-unreadable", format!("the request cannot be read: {e}"), ""))?;
    let (db, inner) = (shared.db.clone(), shared.clone());
    let view = db
        .call(move |db| {
            let machine = store::find(db, &name)?;
            let placed = order::place(db, &inner.site, &inner.key, &machine, &wish)?;
            Ok::<_, Trouble>(view::OrderView::of(
                &order_store::own(db, machine.id, placed.order.id)?,
                machine.asset,
            ))
        })
        .await?;
    super::orders::refresh(&shared).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Takes an order back.
pub async fn cancel(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    let id = id.parse().map_err(|e: String| Refusal::bad("order-id", e, "send the id of an order"))?;
    shared.db.call(move |db| order_store::cancel(db, id).map(|_| ())).await?;
    super::orders::refresh(&shared).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One log.
pub async fn log(
    _: Admin,
    State(shared): State<Arc<Shared>>,
    Path((machine, run, name)): Path<(String, String, String)>,
) -> Result<Response, Refusal> {
    let unknown = || Issue::new("log-unknown", "", "there is no such log", "");
    let run: RunId = run.parse().map_err(|_| Refusal::of(StatusCode::NOT_FOUND, unknown()))?;
    let text = shared
        .db
        .call(move |db| {
            let machine = store::find(db, &machine)?;
            let own = runs::of_machine(db, machine.id)?.iter().any(|r| r.id == run);
            let text = if own { events::log(db, run, &name)? } else { None };
            Ok::<_, Trouble>(text)
        })
        .await?;
    match text {
        Some(text) => Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()),
        None => Err(Refusal::of(StatusCode::NOT_FOUND, unknown())),
    }
}
