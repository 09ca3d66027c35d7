//! What is wrong with the network, in words that somebody who stands in front of the machine can act on.
//!
//! Each cause has one code. One cause is never reported as another: a portal is not a bad certificate, a
//! wrong clock is not a missing network. Where an error alone does not tell (a portal answers on the
//! server's behalf in many ways), one question over plain HTTP does.

use std::error::Error;
use std::io;
use std::time::Duration;

use akene_protocol::Issue;
use akene_protocol::stamp::Tls;
use jiff::Timestamp;
use reqwest::blocking::{Client, Response};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};
use rustls::CertificateError;

use super::http::USER_AGENT;
use super::resolver::{NameError, Resolver};
use super::tls::{NotPinned, find};

/// What was going on when something failed.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// What was asked.
    pub url: &'a str,
    /// Through which proxy.
    pub proxy: Option<&'a str>,
    /// Who was asked for names.
    pub resolver: &'a Resolver,
    /// What our clock said.
    pub now: Timestamp,
    /// Whether anything confirms our clock.
    pub clock_confirmed: bool,
}

/// Causes that one look at an error gives, before anybody is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    Name(NameError),
    /// The other side's certificate is not the server's.
    Certificate(String),
    /// The certificate is not valid on this date.
    Date(String),
    /// The other side does not speak TLS.
    NotTls,
    /// Nothing came, or the connection was refused.
    Silent(String),
    /// The proxy does not do what we ask.
    Proxy(String),
}

/// Explains why a request failed.
pub fn explain(error: &(dyn Error + 'static), c: &Circumstances<'_>) -> Issue {
    let cause = cause_of(error, c.proxy.is_some());
    let url = Url::parse(c.url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or(c.url).to_owned();
    let ambiguous = matches!(cause, Cause::Certificate(_) | Cause::NotTls | Cause::Silent(_));
    // Where a proxy is set, it is no surprise that it stands between us and the server.
    if ambiguous
        && c.proxy.is_none()
        && let Some(answer) = ask_plainly(&host, c.resolver)
        && is_portal(&cause, &host, &answer)
    {
        return portal(c.url, &answer.describe());
    }
    to_issue(cause, &host, c)
}

fn to_issue(cause: Cause, host: &str, c: &Circumstances<'_>) -> Issue {
    match cause {
        Cause::Name(error @ NameError::Unknown { .. }) => Issue::new(
            "name-not-found",
            host,
            format!("the network works, but {error}"),
            "tell the administrator: the server's name on this medium may be misspelt or no longer exist",
        ),
        Cause::Name(error) => Issue::new(
            "name-not-found",
            host,
            format!("{error}"),
            "restart the router (box) of this place and try again; if it stays, tell the administrator",
        ),
        Cause::Certificate(detail) => Issue::new(
            "certificate-wrong",
            c.url,
            format!(
                "something answers as `{host}`, but it is not the server this medium was made for ({detail})"
            ),
            "tell the administrator; if this place filters the Internet (school, company), the server must be exempted from it",
        ),
        Cause::Date(detail) if !c.clock_confirmed => Issue::new(
            "clock-wrong",
            c.url,
            format!(
                "this computer believes it is {}, and nothing on this network could tell the right time ({detail})",
                c.now.strftime("%Y-%m-%d %H:%M UTC")
            ),
            "set date and time in the computer's BIOS set-up and start again; its battery is probably empty",
        ),
        Cause::Date(detail) => Issue::new(
            "certificate-expired",
            c.url,
            format!("the certificate of the server `{host}` is not valid today ({detail})"),
            "tell the administrator to renew the server's certificate",
        ),
        Cause::NotTls => Issue::new(
            "server-silent",
            c.url,
            format!("what answers at `{}` does not speak HTTPS", c.url),
            "tell the administrator: the address on this medium may have a wrong port",
        ),
        Cause::Silent(detail) => Issue::new(
            "server-silent",
            c.url,
            format!("this network works, but the server `{host}` does not answer ({detail})"),
            "try again in some minutes; if it stays, tell the administrator that the server is down or blocked by this network",
        ),
        Cause::Proxy(detail) => Issue::new(
            "portal",
            c.url,
            format!("the proxy {} does not let us through ({detail})", c.proxy.unwrap_or_default()),
            "tell the administrator: the proxy on this medium is wrong for this place, or wants a password",
        ),
    }
}

/// The issue of a network that shows a page of its own instead of the server.
fn portal(url: &str, what: &str) -> Issue {
    Issue::new(
        "portal",
        url,
        format!("this network wants somebody to sign in first: {what} instead of the server"),
        "sign this computer's network connection in (ask who runs the network), or use another connection",
    )
}

/// Looks at an answer that arrived. `None`: nothing is wrong with it as far as the network goes.
/// `what` says what was asked for, for people: "the profile".
pub fn check_answer(response: &Response, url: &str, what: &str) -> Option<Issue> {
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    check_status(status, header(CONTENT_TYPE), header(LOCATION), url, what)
}

fn check_status(
    status: StatusCode,
    content_type: &str,
    location: &str,
    url: &str,
    what: &str,
) -> Option<Issue> {
    let html = content_type.to_ascii_lowercase().starts_with("text/html");
    match status {
        StatusCode::NETWORK_AUTHENTICATION_REQUIRED => Some(portal(url, "it shows a page of its own")),
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Some(Issue::new(
            "portal",
            url,
            "the proxy of this network wants a password",
            "tell the administrator: the medium needs a proxy address with user and password",
        )),
        status if status.is_redirection() => Some(portal(url, &format!("it sends us to `{location}`"))),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !html => Some(Issue::new(
            "token-refused",
            url,
            format!("the server does not accept this medium when asked for {what} ({status})"),
            "tell the administrator: the token on this medium has expired or was withdrawn; stamp the image again",
        )),
        status if status.is_success() && html => Some(portal(url, "it shows a page of its own")),
        status if status.is_server_error() || html => Some(Issue::new(
            "server-silent",
            url,
            format!("the server cannot answer when asked for {what} ({status})"),
            "try again in some minutes; if it stays, tell the administrator",
        )),
        _ => None,
    }
}

fn cause_of(error: &(dyn Error + 'static), proxied: bool) -> Cause {
    if let Some(error) = find::<NameError>(error) {
        return Cause::Name(error.clone());
    }
    if let Some(tls) = find::<rustls::Error>(error) {
        return cause_in_tls(tls);
    }
    let innermost = innermost(error);
    if proxied && (innermost.contains("tunnel") || innermost.contains("proxy")) {
        return Cause::Proxy(innermost);
    }
    let detail = match find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "it refuses the connection".to_owned(),
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            "this network has no way to it".to_owned()
        }
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof) => {
            "the connection was cut".to_owned()
        }
        _ if is_timeout(error) => "it says nothing".to_owned(),
        _ => innermost,
    };
    Cause::Silent(detail)
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_timeout)
        || find::<io::Error>(error).is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn cause_in_tls(error: &rustls::Error) -> Cause {
    use CertificateError as C;
    let day = |time: &rustls::pki_types::UnixTime| {
        Timestamp::from_second(time.as_secs() as i64)
            .map_or_else(|_| "an impossible date".to_owned(), |t| t.strftime("%Y-%m-%d").to_string())
    };
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            C::ExpiredContext { not_after, .. } => Cause::Date(format!("it ended on {}", day(not_after))),
            C::NotValidYetContext { not_before, .. } => {
                Cause::Date(format!("it begins on {}", day(not_before)))
            }
            C::Expired => Cause::Date("it has ended".into()),
            C::NotValidYet => Cause::Date("it begins later".into()),
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                Cause::Certificate("its certificate is for another name".into())
            }
            C::UnknownIssuer => {
                Cause::Certificate("its certificate is by an authority we do not know".into())
            }
            C::Other(other) => match find::<NotPinned>(other.0.as_ref()) {
                Some(not_pinned) => Cause::Certificate(not_pinned.to_string()),
                None => Cause::Certificate(other.0.to_string()),
            },
            other => Cause::Certificate(format!("its certificate is not good: {other}")),
        },
        rustls::Error::InvalidMessage(_) => Cause::NotTls,
        other => Cause::Silent(other.to_string()),
    }
}

/// What came back over plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlainAnswer {
    status: u16,
    html: bool,
    /// Host of the `Location` header.
    sent_to: Option<String>,
}

impl PlainAnswer {
    fn describe(&self) -> String {
        match &self.sent_to {
            Some(host) => format!("it sends us to `{host}`"),
            None => "it shows a page of its own".into(),
        }
    }
}

/// Asks port 80 of the server for its front page.
fn ask_plainly(host: &str, resolver: &Resolver) -> Option<PlainAnswer> {
    let client = Client::builder()
        .tls_backend_preconfigured(
            super::tls::client_config(&Tls::default(), super::tls::Dates::Checked).ok()?,
        )
        .dns_resolver(resolver.for_client())
        .redirect(Policy::none())
        .no_proxy()
        .user_agent(USER_AGENT)
        .connect_timeout(Duration::from_secs(4))
        .timeout(Duration::from_secs(5))
        .build()
        .ok()?;
    let response = client.get(format!("http://{host}/")).send().ok()?;
    let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
    Some(PlainAnswer {
        status: response.status().as_u16(),
        html: header(CONTENT_TYPE).is_some_and(|t| t.to_ascii_lowercase().starts_with("text/html")),
        sent_to: header(LOCATION)
            .and_then(|l| response.url().join(l).ok())
            .and_then(|u| u.host_str().map(str::to_owned)),
    })
}

/// Whether a network stands between us and the server.
fn is_portal(cause: &Cause, host: &str, answer: &PlainAnswer) -> bool {
    if answer.status == 511 {
        return true;
    }
    if (300..400).contains(&answer.status) && answer.sent_to.as_deref().is_some_and(|to| !related(to, host)) {
        return true;
    }
    // The server itself may well have a page on port 80: only together with somebody else's certificate or
    // no TLS at all does a page mean a portal.
    let somebody_else = matches!(cause, Cause::Certificate(_) | Cause::NotTls);
    somebody_else && answer.html && answer.status == 200
}

/// Whether a redirection stays with the same operator: `example.org` and `www.example.org`.
fn related(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_end_matches('.').to_ascii_lowercase(), b.trim_end_matches('.').to_ascii_lowercase());
    a == b || a.ends_with(&format!(".{b}")) || b.ends_with(&format!(".{a}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use std::sync::Arc;

    #[derive(Debug)]
    struct Outer(io::Error);
    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("sending")
        }
    }
    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    fn circumstances(resolver: &Resolver, clock_confirmed: bool) -> Circumstances<'_> {
        Circumstances {
            url: "https://akene.example:8443",
            proxy: None,
            resolver,
            now: "2026-11-22T05:00:00Z".parse().unwrap(),
            clock_confirmed,
        }
    }

    fn code(error: impl Error + Send + Sync + 'static, clock_confirmed: bool) -> String {
        let wrapped = Outer(io::Error::other(error));
        // No name server: the plain question cannot be asked.
        explain(&wrapped, &circumstances(&Resolver::default(), clock_confirmed)).code
    }

    #[test]
    fn errors_deep_inside_are_found_and_named() {
        let bad = rustls::Error::InvalidCertificate;
        assert_eq!(code(NameError::Unknown { name: "x".into() }, true), "name-not-found");
        assert_eq!(code(bad(CertificateError::UnknownIssuer), true), "certificate-wrong");
        assert_eq!(code(bad(CertificateError::Expired), true), "certificate-expired");
        assert_eq!(code(bad(CertificateError::Expired), false), "clock-wrong");
        assert_eq!(code(bad(CertificateError::NotValidYet), false), "clock-wrong");
        let pin = NotPinned { found: akene_protocol::Sha256::of(b"key") };
        let pin = CertificateError::Other(rustls::OtherError(Arc::new(pin)));
        assert_eq!(code(bad(pin), true), "certificate-wrong");
        assert_eq!(code(io::Error::from(io::ErrorKind::ConnectionRefused), true), "server-silent");
        assert_eq!(
            code(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), true),
            "server-silent"
        );
    }

    #[test]
    fn a_portal_is_known_by_what_it_answers() {
        let answer =
            |status, html, to: Option<&str>| PlainAnswer { status, html, sent_to: to.map(str::to_owned) };
        let wrong = Cause::Certificate(String::new());
        let silent = Cause::Silent(String::new());
        for (cause, answer, expected) in [
            (&silent, answer(511, true, None), true),
            (&silent, answer(302, false, Some("login.hotel.example")), true),
            (&wrong, answer(302, false, Some("10.0.0.1")), true),
            (&wrong, answer(200, true, None), true),
            (&Cause::NotTls, answer(200, true, None), true),
            (&silent, answer(200, true, None), false),
            (&wrong, answer(301, false, Some("akene.example")), false),
            (&wrong, answer(301, false, Some("www.akene.example")), false),
            (&wrong, answer(404, true, None), false),
            (&wrong, answer(200, false, None), false),
        ] {
            assert_eq!(is_portal(cause, "akene.example", &answer), expected, "{cause:?} {answer:?}");
        }
    }

    #[test]
    fn answers_that_are_not_the_servers() {
        let code = |status: u16, kind: &str| {
            check_status(
                StatusCode::from_u16(status).unwrap(),
                kind,
                "http://login/",
                "https://h",
                "the profile",
            )
            .map(|i| i.code)
        };
        assert_eq!(code(200, "application/json"), None);
        assert_eq!(code(404, "application/json"), None);
        assert_eq!(code(401, "application/json").as_deref(), Some("token-refused"));
        assert_eq!(code(403, "application/json").as_deref(), Some("token-refused"));
        for (status, kind) in [(200, "text/html; charset=utf-8"), (302, ""), (407, ""), (511, "text/html")] {
            assert_eq!(code(status, kind).as_deref(), Some("portal"), "{status} {kind}");
        }
        assert_eq!(code(502, "text/html").as_deref(), Some("server-silent"));
    }
}
