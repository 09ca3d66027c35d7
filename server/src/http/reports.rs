//! `POST /v1/reports`: what machines tell that were installed with no network, whoever brings it.
//!
//! Nobody proves anything before a report is read: so few are read at a time, fewer of one network, none for longer than a
//! slow line needs, and what is refused counts as a wrong secret
//! does ([`Limiter`](super::limit::Limiter)).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use akene_protocol::Issue;
use akene_protocol::report::{LARGEST, ReportAccepted};
use anyhow::Context as _;
use axum::body::{Bytes, HttpBody as _};
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};

use super::auth::Peer;
use super::limit::network;
use super::refusal::Refusal;
use super::{Shared, Who};
use crate::db::Trouble;
use crate::report;

/// Reports read at a time. Of each, while it is opened, there are up to five copies: as it came, as it waits, unsealed, the
/// signed part in base64, and that part. What is read from it takes a few times as much again where its events hold plans.
const PLACES: u32 = 8;

/// Those of one network: what comes slowly from one keeps no other waiting.
const OF_ONE: u32 = 2;

/// How long a report may take to come: so long, and a second more for each of so many bytes.
const PATIENCE: Duration = Duration::from_secs(30);
const SLOWEST: u64 = 64 << 10;

/// From where reports are being read.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<IpAddr, u32>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Place<'a> {
    of: &'a Places,
    network: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place<'_>> {
        let network = network(address);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = taken.values().sum();
        let of_one = taken.get(&network).copied().unwrap_or(0);
        if all >= PLACES || of_one >= OF_ONE {
            return None;
        }
        taken.insert(network, of_one + 1);
        Some(Place { of: self, network })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = taken.get_mut(&self.network) {
            *places -= 1;
        }
        taken.retain(|_, places| *places > 0);
    }
}

/// How long a report of this length may take. One that does not say how long it is has to be short.
fn patience(length: Option<u64>) -> Duration {
    PATIENCE + Duration::from_secs(length.unwrap_or(0).min(LARGEST as u64) / SLOWEST)
}

/// `POST /v1/reports`.
pub async fn take(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    request: Request,
) -> Result<(Option<Extension<Who>>, Json<ReportAccepted>), Refusal> {
    // Before the body is read.
    let place = shared.reports.take(peer.0.ip()).ok_or_else(busy)?;
    let patience = patience(request.body().size_hint().exact());
    let sealed =
        tokio::time::timeout(patience, Bytes::from_request(request, &shared)).await.map_err(|_| slow())??;
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

fn slow() -> Refusal {
    let issue = Issue::new(
        "too-slow",
        "",
        "the report did not come in the time that a slow line needs",
        "deliver it over a faster line: `akene-image sync`, with the stick",
    );
    Refusal::of(StatusCode::REQUEST_TIMEOUT, issue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_two_places_and_all_have_eight() {
        let places = Places::default();
        let at = |n: u8| IpAddr::from([192, 0, 2, n]);
        let mut taken: Vec<_> = [1, 1, 2, 2, 3, 3, 4, 4].map(|n| places.take(at(n)).unwrap()).into();
        assert!(places.take(at(5)).is_none(), "all are taken");
        taken.truncate(2);
        assert!(places.take(at(1)).is_none(), "two of one address");
        assert!(places.take(at(5)).is_some());
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        let _two = (places.take(six("2001:db8::1")).unwrap(), places.take(six("2001:db8::2")).unwrap());
        assert!(places.take(six("2001:db8::3")).is_none(), "two of one network");
        taken.clear();
        assert!(places.take(at(1)).is_some());
        assert_eq!(places.0.lock().unwrap().len(), 1, "who has gone is forgotten");
    }

    #[test]
    fn who_sends_much_has_longer() {
        assert_eq!(patience(None), Duration::from_secs(30));
        assert_eq!(patience(Some(1 << 20)), Duration::from_secs(46));
        assert_eq!(patience(Some(u64::MAX)), patience(Some(LARGEST as u64)));
    }
}
