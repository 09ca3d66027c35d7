//! What this room needs of HTTP: one request, one answer of bounded size.

use std::time::Duration;

use akene_protocol::api::{POLL_HEADER, WAIT_HEADER};
use akene_protocol::stamp::Tls;
use akene_protocol::{Issue, Secret};
use anyhow::Result;
use jiff::Timestamp;
use reqwest::blocking::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, IF_NONE_MATCH};

use crate::net::diagnose::{Circumstances, check_answer, explain};
use crate::net::http::{Access, read_capped};
use crate::net::resolver::Resolver;
use crate::net::tls::Dates;

/// Method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Where to.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<Secret>,
    /// Content type and body.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// Most bytes of the answer that are read; a longer one is an error.
    pub largest: usize,
    /// The entity tag of what we have: an answer without news is 304.
    pub known: Option<String>,
    /// How long an answer may take; the usual time where none is given.
    pub patience: Option<Duration>,
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, url: &str, largest: usize) -> Self {
        Request {
            method,
            url: url.to_owned(),
            authorization: None,
            body: None,
            largest,
            known: None,
            patience: None,
        }
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the network diagnosis has to say about it: a portal's page, a proxy that wants a password.
    pub objection: Option<Issue>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Its entity tag.
    pub tag: Option<String>,
    /// When to ask for orders again, where the answer says so.
    pub ask: Ask,
}

/// What an answer says about when to ask again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// After this time.
    pub after: Option<Duration>,
    /// At once, and be kept waiting for up to this time.
    pub wait: Option<Duration>,
}

/// Something that sends requests.
pub trait Http: Send + Sync {
    /// Sends one request and reads the whole answer. An error is one of reaching the server, with the
    /// codes of the network diagnosis; a refusal by the server is an [`Answer`].
    fn send(&self, request: &Request) -> Result<Answer, Issue>;
}

impl Answer {
    /// The answer if it is one of success, else what the server objects to.
    pub fn success(self, url: &str) -> Result<Answer, Issue> {
        if (200..300).contains(&self.status) {
            return self.objection.clone().map_or(Ok(self), Err);
        }
        // Every refusal of akene-server has an issue as its body; a proxy's or another host's has not.
        let theirs: Option<Issue> = serde_json::from_slice(&self.body).ok();
        let status = self.status;
        if let (None, Some(objection)) = (&theirs, self.objection) {
            return Err(objection);
        }
        let issue = |code: &str, message: String, next: &str| Issue::new(code, url, message, next);
        Err(match (status, theirs) {
            (429 | 503, Some(theirs)) => {
                let next = if theirs.next.is_empty() { "wait; it is asked again" } else { &theirs.next };
                let why = format!("the server asks us to wait: {} [{}]", theirs.message, theirs.code);
                issue("server-busy", why, next)
            }
            (429, None) => issue(
                "server-busy",
                "the server asks us to wait: too many requests".to_owned(),
                "wait; it is asked again",
            ),
            (500.., theirs) => {
                let why = theirs.map_or_else(String::new, |i| format!(": {}", i.message));
                issue(
                    "server-error",
                    format!("the server has a problem of its own (HTTP {status}){why}"),
                    "look at the server's log; the question is asked again",
                )
            }
            (_, Some(theirs)) => theirs,
            (401 | 403, None) => issue(
                "token-refused",
                format!("the server does not let this medium in (HTTP {status})"),
                "stamp the medium with a valid token",
            ),
            (300..=399, None) => issue(
                "portal",
                format!("the answer is a redirection to another place (HTTP {status})"),
                "log this network in at its portal, or correct the server's address in the stamp",
            ),
            (404, None) => issue(
                "not-found",
                "there is nothing at this address (HTTP 404)".to_owned(),
                "correct the address in the stamp",
            ),
            (_, None) => issue(
                "server-refuses",
                format!("the server refuses (HTTP {status})"),
                "check that the address in the stamp is that of an akene-server",
            ),
        })
    }

    /// The body as a JSON document.
    pub fn json<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, Issue> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let start = String::from_utf8_lossy(&self.body[..self.body.len().min(60)]).into_owned();
            // A captive portal answers 200 with a page of its own, but not behind our pinned TLS.
            let what =
                if start.trim_start().starts_with('<') { "a web page" } else { "not what was asked for" };
            Issue::new(
                "answer-unreadable",
                url,
                format!("the answer is {what} ({e})"),
                "use a medium and a server of the same version of Akène, and check the address in the stamp",
            )
        })
    }
}

/// HTTP as the stamp wants it: its certificates, its proxy, our own resolver.
pub struct Web {
    client: Client,
    proxy: Option<String>,
    resolver: Resolver,
    clock_confirmed: bool,
}

impl Web {
    /// Prepares HTTP. `clock_confirmed` says whether anything told us the time: it decides how an expired
    /// certificate is explained.
    pub fn new(tls: &Tls, proxy: Option<&str>, resolver: &Resolver, clock_confirmed: bool) -> Result<Web> {
        let access = Access { tls, proxy, resolver, dates: Dates::Checked };
        Ok(Web {
            client: access.client()?,
            proxy: proxy.map(str::to_owned),
            resolver: resolver.clone(),
            clock_confirmed,
        })
    }

    fn explained(&self, error: &(dyn std::error::Error + 'static), url: &str) -> Issue {
        let circumstances = Circumstances {
            url,
            proxy: self.proxy.as_deref(),
            resolver: &self.resolver,
            now: Timestamp::now(),
            clock_confirmed: self.clock_confirmed,
        };
        explain(error, &circumstances)
    }
}

impl Http for Web {
    fn send(&self, request: &Request) -> Result<Answer, Issue> {
        let url = request.url.as_str();
        let mut builder = match request.method {
            Method::Get => self.client.get(url),
            Method::Post => self.client.post(url),
        };
        if let Some(secret) = &request.authorization {
            let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
                Issue::new(
                    "internal",
                    url,
                    "the credential of this computer cannot be sent: it is damaged",
                    "",
                )
            })?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(tag) = &request.known {
            builder = builder.header(IF_NONE_MATCH, tag);
        }
        if let Some(patience) = request.patience {
            builder = builder.timeout(patience);
        }
        if let Some((kind, body)) = &request.body {
            builder = builder.header(CONTENT_TYPE, *kind).body(body.clone());
        }
        let response = builder.send().map_err(|e| self.explained(&e, url))?;
        let objection = check_answer(&response, url, "an answer");
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let tag = header("etag").map(str::to_owned);
        let seconds = |name| header(name).and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let ask = Ask { after: seconds(POLL_HEADER), wait: seconds(WAIT_HEADER) };
        let body = read_capped(response, request.largest as u64).map_err(|error| {
            Issue::new(
                "server-silent",
                url,
                format!("the answer broke off: {error:#}"),
                "try again in some minutes; if it stays, tell the administrator",
            )
        })?;
        Ok(Answer { status, objection, body, tag, ask })
    }
}
