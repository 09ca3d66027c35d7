//! Package files by hash: `GET /v1/pool/sha256/HASH`, with ranges.
//!
//! For machines of the site only. Packages of a distribution are public, but those beside the classes are the
//! administrator's own (a licence, an internal program), and an open address would lend a small server's line to
//! anybody who knows a hash. So many files go out at a time and no more: a machine that comes too late is told
//! to come back, and meanwhile has the mirrors.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use akene_protocol::{Issue, Sha256};
use anyhow::Context as _;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::auth::Machine;
use super::refusal::{Refusal, broken};
use super::{Shared, Who};

/// A file of that name never changes, and only the machine that asked may keep it.
const FOR_EVER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// How long a machine that came too late should wait.
const LATER: Duration = Duration::from_secs(10);

/// How much is read from the disk at once.
const PIECE: usize = 64 << 10;

/// `GET /v1/pool/sha256/HASH`.
pub async fn file(
    State(shared): State<Arc<Shared>>,
    machine: Machine,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let who = Extension(Who(machine.id));
    let sum: Sha256 = name.parse().map_err(|_| {
        Refusal::bad(
            "not-a-hash",
            "the address does not end with a SHA-256",
            "ask with 64 hexadecimal digits",
        )
    })?;
    let place = shared.streams.clone().try_acquire_owned().map_err(|_| {
        let issue = Issue::new(
            "pool-busy",
            "",
            "this server gives out as many files as it may at a time",
            "wait, or fetch from a mirror; `limits.pool-streams` in site.toml says how many",
        );
        Refusal::of(StatusCode::SERVICE_UNAVAILABLE, issue).retry_after(LATER)
    })?;
    let looking = shared.clone();
    let path = tokio::task::spawn_blocking(move || looking.pool.find(&sum))
        .await
        .context("looking for a file of the pool")??;
    let Some(path) = path else {
        let message = format!("this server has no file with the SHA-256 {sum}");
        return Err(Refusal::of(
            StatusCode::NOT_FOUND,
            Issue::new("not-in-pool", "", message, "fetch it elsewhere"),
        ));
    };
    let opening = || format!("opening {}", path.display());
    let mut file = tokio::fs::File::open(&path).await.with_context(opening)?;
    let size = file.metadata().await.with_context(opening)?.len();
    let tag = HeaderValue::from_str(&format!("\"{sum}\"")).context("writing an entity tag")?;
    let whole = headers.get(header::IF_RANGE).is_some_and(|known| known != tag);
    let asked = headers.get(header::RANGE).filter(|_| !whole).and_then(|range| range.to_str().ok());
    let (status, from, to) = match asked.and_then(|range| parse_range(range, size)) {
        None => (StatusCode::OK, 0, size),
        Some((from, to)) if from < to => (StatusCode::PARTIAL_CONTENT, from, to),
        Some(_) => {
            let refusal =
                Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "the file ends before that");
            let mut response = refusal.into_response();
            response.headers_mut().insert(header::CONTENT_RANGE, value(format!("bytes */{size}"))?);
            return Ok(response);
        }
    };
    file.seek(SeekFrom::Start(from)).await.with_context(opening)?;
    // The place is given back with the body.
    let rest = Held { inner: file.take(to - from), _place: place };
    let mut response = Body::from_stream(ReaderStream::with_capacity(rest, PIECE)).into_response();
    *response.status_mut() = status;
    let mut set = |name, value| response.headers_mut().insert(name, value);
    set(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.debian.binary-package"));
    set(header::CONTENT_LENGTH, HeaderValue::from(to - from));
    set(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(header::CACHE_CONTROL, FOR_EVER);
    set(header::ETAG, tag);
    if status == StatusCode::PARTIAL_CONTENT {
        set(header::CONTENT_RANGE, value(format!("bytes {from}-{}/{size}", to - 1))?);
    }
    Ok((who, response).into_response())
}

fn value(text: String) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(&text).map_err(|e| broken(&e.into()))
}

/// First byte and the one after the last of a range. `None`: several ranges, or what is no range; both are answered
/// with the whole. Empty: it begins after the end.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    if from.is_empty() {
        let last: u64 = to.parse().ok()?;
        return Some((size.saturating_sub(last), if last == 0 { 0 } else { size }));
    }
    let from = from.parse().ok()?;
    let to = match to {
        "" => size,
        to => to.parse::<u64>().ok().filter(|to| *to >= from)?.saturating_add(1).min(size),
    };
    Some((from, to.max(from.min(size))))
}

/// A reader that keeps its place among those that are served.
struct Held<R> {
    inner: R,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl<R: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Held<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges() {
        for (text, expected) in [
            ("bytes=0-", Some((0, 10))),
            ("bytes=4-", Some((4, 10))),
            ("bytes=4-5", Some((4, 6))),
            ("bytes=4-400", Some((4, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-30", Some((0, 10))),
            ("bytes=10-", Some((10, 10))),
            ("bytes=5-4", None),
            ("bytes=1-2,4-5", None),
            ("lines=1-2", None),
            ("bytes=x-", None),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        let (from, to) = parse_range("bytes=11-", 10).unwrap();
        assert!(from >= to);
    }
}
