//! The one shape of every refusal: an HTTP status and an [`Issue`].

use std::time::Duration;

use akene_protocol::Issue;
use akene_protocol::issue::Issues;
use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::db::Trouble;

/// A refusal.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    issue: Issue,
    retry_after: Option<Duration>,
    /// For browsers: ask for user name and password.
    pub ask_password: bool,
}

impl Refusal {
    /// A refusal that needs no further advice.
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Refusal {
        Refusal::of(status, Issue::new(code, "", message, ""))
    }

    /// A refusal for this reason.
    pub fn of(status: StatusCode, issue: Issue) -> Refusal {
        Refusal { status, issue, retry_after: None, ask_password: false }
    }

    /// 400 for this reason.
    pub fn bad(code: &str, message: impl Into<String>, next: &str) -> Refusal {
        Refusal::of(StatusCode::BAD_REQUEST, Issue::new(code, "", message, next))
    }

    /// The reason.
    pub fn issue(&self) -> &Issue {
        &self.issue
    }

    /// The same, to be asked again later.
    pub fn retry_after(self, time: Duration) -> Refusal {
        Refusal { retry_after: Some(time), ..self }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.issue)).into_response();
        if let Some(time) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(time.as_secs().max(1)));
        }
        if self.ask_password {
            let ask = HeaderValue::from_static("Basic realm=\"akene\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        response
    }
}

/// Several issues travel as one, a line each.
impl From<Issues> for Refusal {
    fn from(Issues(mut issues): Issues) -> Self {
        let issue = match issues.len() {
            1 => issues.remove(0),
            _ => Issue {
                code: "profile-invalid".into(),
                path: issues.first().map(|i| i.path.clone()).unwrap_or_default(),
                message: Issues(issues).to_string(),
                next: "correct the files on the server; `akene-server profile check` shows the same list"
                    .into(),
            },
        };
        Refusal::of(StatusCode::BAD_REQUEST, issue)
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(issue) => {
                let status = match issue.code.as_str() {
                    "run-of-another"
                    | "order-other-machine"
                    | "report-other-credential"
                    | "machine-dropped" => StatusCode::FORBIDDEN,
                    "machine-unknown" | "order-unknown" => StatusCode::NOT_FOUND,
                    "order-open" | "order-used" | "order-cancelled" | "order-expired" => StatusCode::CONFLICT,
                    "too-many-new-machines" | "too-many-waiting" => StatusCode::TOO_MANY_REQUESTS,
                    "too-much-log" => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                };
                Refusal::of(status, issue)
            }
            // What is wrong in the site directory is told as such.
            Trouble::Broken(error) => error.into(),
        }
    }
}

/// Our own fault. The reason goes to the log of the server and to nobody else.
pub fn broken(error: &anyhow::Error) -> Refusal {
    eprintln!("answering a request: {error:#}");
    Refusal::of(
        StatusCode::INTERNAL_SERVER_ERROR,
        Issue::new(
            "server-broken",
            "",
            "the server could not do its part",
            "try again; the administrator finds the reason in the server's log",
        ),
    )
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        // What the administrator wrote is theirs to mend, and no secret of ours.
        match error.downcast::<Issues>() {
            Ok(issues) => issues.into(),
            Err(error) => match error.downcast::<Issue>() {
                Ok(issue) => Refusal::of(StatusCode::BAD_REQUEST, issue),
                Err(error) => broken(&error),
            },
        }
    }
}

impl From<BytesRejection> for Refusal {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Refusal::of(
                StatusCode::PAYLOAD_TOO_LARGE,
                Issue::new(
                    "body-too-large",
                    "",
                    "the request holds more than this server reads of its kind",
                    "send less at a time; an inventory that is too large may be let in by `limits.enrolment-bytes` in site.toml",
                ),
            ),
            _ => Refusal::bad("body-unreadable", "the request broke off", "send it again"),
        }
    }
}
