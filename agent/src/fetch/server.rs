//! The calls to an `akene-server`.

use std::sync::Arc;
use std::time::Duration;

use akene_protocol::api::{
    self, EnrolRequest, EnrolResponse, EventBatch, EventsAccepted, Identity, OpenOrders, RunRequest,
    RunResponse,
};
use akene_protocol::event::Event;
use akene_protocol::order;
use akene_protocol::report::ReportAccepted;
use akene_protocol::{Envelope, Inventory, Issue, OrderId, RunId, Secret};
use jiff::Timestamp;

use super::http::{Answer, Ask, Http, Method, Request};
use super::lock::LARGEST_LOCK;
use super::{LARGEST_PROFILE, is_transient};
use crate::report::courier::{Route, Undelivered};

/// Largest answer that holds no profile.
const LARGEST_ANSWER: usize = 1 << 20;

/// Most bytes of a log that are sent: its end, where a failure is.
const LARGEST_LOG: usize = 3 << 20;

/// How long a report may take on a slow line: the server waits no longer, either.
const LONGEST_DELIVERY: Duration = Duration::from_secs(150);

/// How much later than it promised a server may answer a question it kept.
const LATE: Duration = Duration::from_secs(20);

/// What came of asking for orders.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The open orders, where they have changed.
    pub orders: Option<Vec<Envelope>>,
    /// The entity tag of what there is now.
    pub tag: Option<String>,
    /// When to ask again.
    pub ask: Ask,
}

/// An `akene-server`.
pub struct Server<'a> {
    http: &'a dyn Http,
    url: String,
}

impl<'a> Server<'a> {
    /// The server at `url`.
    pub fn new(http: &'a dyn Http, url: &str) -> Self {
        Server { http, url: url.trim_end_matches('/').to_owned() }
    }

    /// Makes this machine known.
    pub fn enrol(
        &self,
        token: &Secret,
        known: Option<Identity>,
        inventory: &Inventory,
    ) -> Result<EnrolResponse, Issue> {
        let request = EnrolRequest { token: token.clone(), known, inventory: inventory.clone() };
        let url = format!("{}/v1/enrol", self.url);
        self.post(&url, None, &request, LARGEST_ANSWER)?.json(&url)
    }

    /// Asks what to do.
    pub fn run(
        &self,
        identity: &Identity,
        run: RunId,
        inventory: &Inventory,
        profile: Option<&str>,
        order: Option<OrderId>,
    ) -> Result<RunResponse, Issue> {
        let (inventory, profile) = (inventory.clone(), profile.map(str::to_owned));
        self.ask(identity, &RunRequest { run, inventory, profile, order, attempts: None })
    }

    /// Asks whether a person permits another attempt after so many that broke off. `None`: yes, with this run, which gets
    /// this profile whenever it asks again. With an `order` that was begun, it goes on as that says.
    pub fn may_try_again(
        &self,
        identity: &Identity,
        run: RunId,
        inventory: &Inventory,
        profile: Option<&str>,
        order: Option<OrderId>,
        attempts: u32,
    ) -> Result<Option<Issue>, Issue> {
        let (inventory, profile) = (inventory.clone(), profile.map(str::to_owned));
        let request = RunRequest { run, inventory, profile, order, attempts: Some(attempts) };
        let answer = self.ask(identity, &request)?;
        Ok(match answer.grant {
            Some(_) => None,
            None => Some(answer.refusal.unwrap_or_else(super::no_grant)),
        })
    }

    fn ask(&self, identity: &Identity, request: &RunRequest) -> Result<RunResponse, Issue> {
        let url = format!("{}/v1/runs", self.url);
        self.post(&url, Some(identity.bearer()), request, LARGEST_PROFILE)?.json(&url)
    }

    /// Hands over events.
    pub fn events(&self, identity: &Identity, events: &[Event]) -> Result<EventsAccepted, Issue> {
        let url = format!("{}/v1/events", self.url);
        let batch = EventBatch { events: events.to_vec() };
        self.post(&url, Some(identity.bearer()), &batch, LARGEST_ANSWER)?.json(&url)
    }

    /// Asks for orders. `known` is the entity tag of what was answered before; `None` comes back where that has not
    /// changed. With `wait` the server may keep the question until an order comes.
    pub fn orders(
        &self,
        identity: &Identity,
        known: Option<&str>,
        wait: Option<Duration>,
    ) -> Result<Asked, Issue> {
        let mut url = format!("{}/v1/orders", self.url);
        if let Some(wait) = wait {
            url += &format!("?wait={}", wait.as_secs());
        }
        let mut request = Request::new(Method::Get, &url, LARGEST_ANSWER);
        request.authorization = Some(identity.bearer());
        request.known = known.map(str::to_owned);
        request.patience = wait.map(|wait| wait + LATE);
        let answer = self.http.send(&request)?;
        if answer.status == 304 && known.is_some() {
            return Ok(Asked { orders: None, tag: known.map(str::to_owned), ask: answer.ask });
        }
        let answer = answer.success(&url)?;
        let open: OpenOrders = answer.json(&url)?;
        Ok(Asked { orders: Some(open.orders), tag: answer.tag, ask: answer.ask })
    }

    /// What time it is there.
    pub fn time(&self) -> Result<Timestamp, Issue> {
        let url = format!("{}/v1/time", self.url);
        let answer = self.http.send(&Request::new(Method::Get, &url, LARGEST_ANSWER))?.success(&url)?;
        answer.json::<api::Time>(&url).map(|time| time.now)
    }

    /// Tells how far an order is.
    pub fn report(
        &self,
        identity: &Identity,
        order: OrderId,
        progress: &order::Progress,
    ) -> Result<(), Issue> {
        let url = format!("{}/v1/orders/{order}", self.url);
        self.post(&url, Some(identity.bearer()), progress, LARGEST_ANSWER).map(|_| ())
    }

    /// The signed profile with which an order's reinstallation would be done.
    pub fn profile_of(&self, identity: &Identity, order: OrderId) -> Result<Envelope, Issue> {
        let url = format!("{}/v1/orders/{order}/profile", self.url);
        let mut request = Request::new(Method::Get, &url, LARGEST_PROFILE);
        request.authorization = Some(identity.bearer());
        self.http.send(&request)?.success(&url)?.json(&url)
    }

    /// The signed lock of a profile as the server gives it out; `None` where there is none.
    pub fn lock(&self, identity: &Identity, profile: &str) -> Result<Option<Vec<u8>>, Issue> {
        let url = format!("{}/v1/profiles/{profile}/lock", self.url);
        let mut request = Request::new(Method::Get, &url, LARGEST_LOCK);
        request.authorization = Some(identity.bearer());
        let answer = self.http.send(&request)?;
        if answer.status == 404 {
            return Ok(None);
        }
        Ok(Some(answer.success(&url)?.body))
    }

    /// Sends what the machine is now.
    pub fn inventory(&self, identity: &Identity, inventory: &Inventory) -> Result<(), Issue> {
        let url = format!("{}/v1/inventory", self.url);
        self.post(&url, Some(identity.bearer()), inventory, LARGEST_ANSWER).map(|_| ())
    }

    /// Hands over a log; of a long one the end.
    pub fn log(&self, identity: &Identity, run: RunId, name: &str, text: &[u8]) -> Result<(), Issue> {
        let url = format!("{}/v1/logs/{run}/{name}", self.url);
        let text = &text[text.len().saturating_sub(LARGEST_LOG)..];
        let mut request = Request::new(Method::Post, &url, LARGEST_ANSWER);
        request.authorization = Some(identity.bearer());
        request.body = Some(("text/plain; charset=utf-8", text.to_vec()));
        self.http.send(&request)?.success(&url).map(|_| ())
    }

    /// Hands over a sealed report. It says itself who this machine is.
    pub fn deliver(&self, sealed: Vec<u8>) -> Result<ReportAccepted, Issue> {
        let url = format!("{}/v1/reports", self.url);
        let mut request = Request::new(Method::Post, &url, LARGEST_ANSWER);
        request.body = Some(("application/octet-stream", sealed));
        request.patience = Some(LONGEST_DELIVERY);
        self.http.send(&request)?.success(&url)?.json(&url)
    }

    fn post(
        &self,
        url: &str,
        authorization: Option<Secret>,
        body: &impl serde::Serialize,
        largest: usize,
    ) -> Result<Answer, Issue> {
        let text = serde_json::to_vec(body)
            .map_err(|e| Issue::new("internal", url, format!("writing the request failed: {e}"), ""))?;
        let mut request = Request::new(Method::Post, url, largest);
        request.authorization = authorization;
        request.body = Some(("application/json", text));
        self.http.send(&request)?.success(url)
    }
}

/// The courier's way to an `akene-server`.
pub struct EventRoute {
    /// HTTP.
    pub http: Arc<dyn Http>,
    /// `https://HOST[:PORT]`.
    pub url: String,
    /// Who we are.
    pub identity: Identity,
}

impl Route for EventRoute {
    fn send(&mut self, events: &[Event]) -> Result<(), Undelivered> {
        match Server::new(&*self.http, &self.url).events(&self.identity, events) {
            Ok(_) => Ok(()),
            Err(issue) if is_transient(&issue) => Err(Undelivered::Later),
            Err(_) => Err(Undelivered::Refused),
        }
    }
}
