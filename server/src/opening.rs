//! Connections that begin and then say nothing, and too many of them.
//!
//! The HTTP library bounds how long the head of a request may take, but only once it knows which version of
//! HTTP is spoken, for which it reads as many bytes as HTTP/2's opening has, without a limit. [`Opening`]
//! is that limit: connections are cheap for a stranger and must not be dear for us.
//!
//! Of those that are too many, some are still accepted and marked with [`Crowd`], so that they can be told
//! why they get nothing; beyond these, connections are closed at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tower_service::Service;

/// Bytes of HTTP/2's opening, `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`.
const PREFACE: usize = 24;

/// Connections too many that are told so.
const TOLD: usize = 32;

/// Gives connections this long to say the first words, and lets so many in.
#[derive(Clone, Debug)]
pub struct Opening<A> {
    inner: A,
    limit: Duration,
    places: Arc<Semaphore>,
    told: Arc<Semaphore>,
}

/// On the requests of a connection too many.
#[derive(Clone, Copy, Debug)]
pub struct Crowd;

/// Marks the requests of a connection too many.
#[derive(Clone, Debug)]
pub struct Marked<S> {
    inner: S,
    crowd: bool,
}

impl<S, B> Service<Request<B>> for Marked<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if self.crowd {
            request.extensions_mut().insert(Crowd);
        }
        self.inner.call(request)
    }
}

impl<A> Opening<A> {
    /// Around the acceptor that makes the stream.
    pub fn new(inner: A, limit: Duration, connections: usize) -> Self {
        let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Opening { inner, limit, places, told: Arc::new(Semaphore::new(TOLD)) }
    }

    /// A place for a connection, and whether it is one too many. `None`: there is not even room to say so.
    fn place(&self) -> Option<(OwnedSemaphorePermit, bool)> {
        let place = self.places.clone().try_acquire_owned().map(|permit| (permit, false));
        place.or_else(|_| self.told.clone().try_acquire_owned().map(|permit| (permit, true))).ok()
    }
}

impl<A, S> Accept<TcpStream, S> for Opening<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = Bounded<A::Stream>;
    type Service = Marked<A::Service>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Some((permit, crowd)) = self.place() else {
            let full = io::Error::new(io::ErrorKind::ResourceBusy, "too many connections");
            return Box::pin(async move { Err(full) });
        };
        let inner = self.inner.accept(stream, service);
        let limit = self.limit;
        Box::pin(async move {
            let (stream, service) = inner.await?;
            let deadline = Some(Box::pin(tokio::time::sleep(limit)));
            let stream = Bounded { stream, heard: 0, deadline, _place: permit };
            Ok((stream, Marked { inner: service, crowd }))
        })
    }
}

/// A stream that ends with an error unless its first bytes come in time.
#[derive(Debug)]
pub struct Bounded<T> {
    stream: T,
    heard: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Given back with the connection.
    _place: OwnedSemaphorePermit,
}

impl<T: AsyncRead + Unpin> AsyncRead for Bounded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.heard += buffer.filled().len() - before;
        if self.heard >= PREFACE {
            self.deadline = None;
        }
        if outcome.is_pending()
            && let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said")));
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bounded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
