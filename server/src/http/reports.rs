//! `POST /v1/reports`: what machines tell that were installed with no network, whoever brings it.
//!
//! Nobody proves anything before a report is read: so few are read at a time, and what is refused counts as a wrong secret
//! does ([`Limiter`](super::limit::Limiter)).

use std::sync::Arc;
use std::time::Duration;

use akene_protocol::Issue;
use akene_protocol::report::ReportAccepted;
use anyhow::Context as _;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::auth::Peer;
use super::refusal::Refusal;
use super::{Shared, Who};
use crate::db::Trouble;
use crate::report;

/// Reports read at a time. Of each, while it is opened, there are up to five copies: as it came, as it waits, unsealed, the
/// signed part in base64, and that part. What is read from it takes a few times as much again where its events hold plans.
pub const PLACES: usize = 8;

/// `POST /v1/reports`.
pub async fn take(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    request: Request,
) -> Result<(Option<Extension<Who>>, Json<ReportAccepted>), Refusal> {
    // Before the body is read.
    let place = shared.reports.try_acquire().map_err(|_| busy())?;
    let sealed = Bytes::from_request(request, &shared).await?;
    let site = shared.site.clone();
    let opened = tokio::task::spawn_blocking(move || report::open(&site, &sealed))
        .await
        .context("opening a report")?;
    let opened = match opened {
        Ok(opened) => opened,
        Err(Trouble::Refused(issue)) => {
            // The answer takes its time, and is to take nobody's place.
            drop(place);
            return Err(shared.limiter.refuse(peer.0.ip(), issue).await);
        }
        Err(broken) => return Err(broken.into()),
    };
    let most = shared.site.config()?.limits.log_bytes_per_machine;
    let (machine, confirms) = (opened.report.identity.machine, opened.confirms());
    let site = shared.site.clone();
    let accepted = shared.db.call(move |db| report::take(db, &site, &opened, &peer.text(), most)).await?;
    if confirms {
        super::orders::refresh(&shared).await?;
    }
    Ok((accepted.admitted.then_some(Extension(Who(machine))), Json(accepted)))
}

fn busy() -> Refusal {
    let issue = Issue::new(
        "too-many-reports",
        "",
        "this server reads as many reports as it does at a time",
        "wait, it is asked again",
    );
    Refusal::of(StatusCode::SERVICE_UNAVAILABLE, issue).retry_after(Duration::from_secs(30))
}
