//! The signed lock of a profile: `GET /v1/profiles/NAME/lock`.

use std::sync::Arc;

use akene_protocol::{Issue, Sha256};
use anyhow::Context as _;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::auth::Machine;
use super::refusal::Refusal;
use super::{Shared, Who};
use crate::order;

/// `GET /v1/profiles/NAME/lock`. Its entity tag is the SHA-256 of the document.
pub async fn get(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let who = Extension(Who(machine.id));
    let (asked, site) = (name.clone(), shared.site.clone());
    let pinned = shared.db.call(move |db| Ok(order::pinned_lock(db, machine.id, &asked)?)).await?;
    let asked = name.clone();
    // Megabytes, and nobody waits for the database meanwhile.
    let text = tokio::task::spawn_blocking(move || {
        // What was ordered is pinned, also when the lock was made anew since.
        match pinned.map(|sum| site.kept_lock(sum)).transpose()?.flatten() {
            Some(text) => Ok(Some(text)),
            None => site.signed_lock(&asked),
        }
    })
    .await
    .context("reading a lock")??;
    let Some(text) = text else {
        let issue = Issue::new(
            "no-lock",
            "",
            format!("there is no signed lock of a profile `{name}`"),
            "make it with `akene-server lock`; without one a machine chooses its packages by itself",
        );
        return Err(Refusal::of(StatusCode::NOT_FOUND, issue));
    };
    let tag = format!("\"{}\"", Sha256::of(&text));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    let fresh = known.is_some_and(|known| known.split(',').any(|t| t.trim() == tag || t.trim() == "*"));
    let tag = HeaderValue::from_str(&tag).context("writing an entity tag")?;
    let mut response = match fresh {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            ([json], text).into_response()
        }
    };
    response.headers_mut().insert(header::ETAG, tag);
    Ok((who, response).into_response())
}
