//! Opening an address, from a byte on.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};

use super::source::Address;

/// Most redirects followed for one file.
const MAX_REDIRECTS: usize = 5;

/// A server that asks to be left alone is, but not for longer than this.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What came of asking.
pub(crate) enum Opened {
    /// It gives.
    Stream {
        reader: Box<dyn Read>,
        /// Where what it gives begins: where it was asked to, or at the beginning.
        from: u64,
        /// How much it says it gives.
        length: Option<u64>,
        /// How long it says the whole file is.
        whole: Option<u64>,
        /// It calls it a page for people: who shows it.
        page: Option<String>,
    },
    /// Somebody on the way answers: the network wants somebody to sign in first.
    Between(String),
    /// It says that it does not have the file.
    Absent(String),
    /// It does not give the file, and leaves open whether it has it.
    Refused(String),
    /// It does not work now; it may be asked again after this time.
    Broken(String, Duration),
    /// Nobody answers, or only a proxy, which says that nobody does.
    Silent(String),
    /// It does not know the range asked for.
    NoSuchRange(String),
}

/// Opens an address, from byte `have` on if the source can.
pub(crate) fn open(address: &Address, client: &Client, have: u64) -> Opened {
    ask(&Method::GET, address, client, have)
}

/// Asks whether a source has a file, and for nothing of it.
pub(super) fn look(address: &Address, client: &Client) -> Opened {
    ask(&Method::HEAD, address, client, 0)
}

fn ask(method: &Method, address: &Address, client: &Client, have: u64) -> Opened {
    let (url, client, authorization) = match address {
        Address::File(path) => {
            let shown = path.display();
            let opened = File::open(path).and_then(|mut file| {
                let length = file.metadata()?.len();
                file.seek(SeekFrom::Start(have))?;
                Ok((file, length))
            });
            return match opened {
                Ok((file, length)) => Opened::Stream {
                    reader: Box::new(file),
                    from: have,
                    length: Some(length.saturating_sub(have)),
                    whole: Some(length),
                    page: None,
                },
                Err(e) if e.kind() == ErrorKind::NotFound => Opened::Absent(format!("opening {shown}: {e}")),
                Err(e) => Opened::Broken(format!("opening {shown}: {e}"), Duration::ZERO),
            };
        }
        Address::Http { url, client: own, authorization } => {
            (url, own.as_ref().unwrap_or(client), authorization)
        }
    };
    let first = match Url::parse(url) {
        Ok(first) => first,
        Err(e) => return Opened::Absent(format!("`{url}` is not an address ({e})")),
    };
    let mut url = first.clone();
    for _ in 0..=MAX_REDIRECTS {
        if !matches!(url.scheme(), "http" | "https") {
            return Opened::Absent(format!("`{url}` is neither http nor https"));
        }
        let mut request = client.request(method.clone(), url.clone());
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        if let Some(secret) = authorization.as_ref().filter(|_| url.origin() == first.origin()) {
            request = request.header(AUTHORIZATION, secret.expose());
        }
        let response = match request.send() {
            Ok(response) => response,
            Err(e) => return Opened::Silent(causes(&e)),
        };
        let status = response.status();
        let length = response.content_length();
        let page = is_page(&response).then(|| between(&first, &url, "shows a page"));
        match status {
            StatusCode::OK => {
                return Opened::Stream { reader: Box::new(response), from: 0, length, whole: length, page };
            }
            StatusCode::PARTIAL_CONTENT if have > 0 => {
                return match range(&response) {
                    Some((from, whole)) if from == have => {
                        Opened::Stream { reader: Box::new(response), from, length, whole, page }
                    }
                    _ => {
                        Opened::NoSuchRange(format!("{url} answers with another part than it was asked for"))
                    }
                };
            }
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                return Opened::NoSuchRange(format!("{url} says that the file ends before byte {have}"));
            }
            _ if status.is_redirection() => {
                let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
                let Some(target) = target.and_then(|l| url.join(l).ok()) else {
                    return Opened::Refused(format!("{url} answers {status} without saying where to"));
                };
                if url.scheme() == "https" && target.scheme() != "https" {
                    return Opened::Refused(format!("{url} leads from https to {target}"));
                }
                url = target;
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                return Opened::Broken(format!("{url} answers {status}"), rest(&response));
            }
            StatusCode::NETWORK_AUTHENTICATION_REQUIRED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Opened::Between(between(&first, &url, &format!("answers {status}")));
            }
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                return Opened::Silent(format!("{url} answers {status}"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                return Opened::Broken(format!("{url} answers {status}"), Duration::ZERO);
            }
            _ if status.is_server_error() => {
                return Opened::Broken(format!("{url} answers {status}"), rest(&response));
            }
            // Where somebody else was led to, that one does not speak for it.
            StatusCode::NOT_FOUND | StatusCode::GONE if url.origin() == first.origin() => {
                return Opened::Absent(format!("{url} answers {status}"));
            }
            _ => return Opened::Refused(format!("{url} answers {status}")),
        }
    }
    Opened::Refused(format!("more than {MAX_REDIRECTS} redirects, the last to {url}"))
}

/// Whether what comes calls itself a page for people.
fn is_page(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["text/html", "application/xhtml+xml"].iter().any(|page| kind.eq_ignore_ascii_case(page))
}

/// Who was asked, where that led to, and what was found there instead of the file.
fn between(first: &Url, last: &Url, what: &str) -> String {
    // What a portal hangs to its address is long and nobody's business.
    let shown = |url: &Url| format!("{}{}", url.origin().ascii_serialization(), url.path());
    let led = if first == last { String::new() } else { format!(" sends us to {}, which", shown(last)) };
    format!("{}{led} {what} instead of the file", shown(first))
}

/// First byte and size of the whole of `Content-Range: bytes 100-199/200`.
fn range(response: &Response) -> Option<(u64, Option<u64>)> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, whole) = range.split_once('/')?;
    Some((range.split('-').next()?.trim().parse().ok()?, whole.trim().parse().ok()))
}

fn rest(response: &Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    seconds.map_or(Duration::ZERO, Duration::from_secs).min(LONGEST_REST)
}

/// An error with everything beneath it: reqwest itself says only "error sending request".
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}
