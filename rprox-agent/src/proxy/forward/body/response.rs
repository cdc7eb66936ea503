//! A response's body on its way to the client.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::proxy::forward::exchange::{Exchange, Offered};
use crate::proxy::forward::failure::Broken;
use crate::proxy::forward::http1::Http1;
use crate::proxy::forward::http2::Incoming;
use crate::proxy::forward::pool::Lease;
use crate::proxy::forward::tunnel::Tunnel;
use crate::proxy::http1::bulk::{Bulk, Piped};

/// Why a response's body ended early. The client's connection is cut then: a short body must not look whole.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The upstream stopped sending.
    #[error("the upstream sent nothing of its response's body for timeouts.body")]
    Stalled,
    /// The upstream's connection broke.
    #[error("the upstream's response broke off: {0}")]
    Broken(#[from] Broken),
}

/// A response's body on its way to the client.
pub struct ResponseBody(Content);

enum Content {
    /// Our own words.
    Text(Bytes, Exchange),
    /// The upstream's.
    Upstream(Download, Exchange),
    /// None: what follows the head is a tunnel's, and so is the exchange. The tunnel is here until somebody takes it.
    Tunnel(Option<Box<Tunnel>>),
}

/// Where a response's body comes from.
pub enum Source {
    /// The connection itself.
    Http1,
    /// A stream of the connection.
    Http2(Incoming),
}

/// A response's body and the upstream connection that it comes by.
pub struct Download {
    /// The body.
    pub source: Source,
    /// The connection; gone once the body has ended.
    pub lease: Option<Lease>,
    /// How long its next piece may take.
    pub patience: Duration,
    /// When the wait for the next piece is over.
    pub deadline: Option<Instant>,
    /// Why the body ended early, until the client has what came before.
    pub broken: Option<DownloadError>,
    /// The last piece, until the client's stream asks for the next. Over HTTP/1.1 the socket tells how fast it takes.
    pub offered: Option<Offered>,
}

impl ResponseBody {
    /// Our own words; may be none.
    #[must_use]
    pub fn text(text: Bytes, exchange: Exchange) -> Self {
        Self(Content::Text(text, exchange))
    }

    /// The upstream's.
    #[must_use]
    pub fn upstream(mut download: Download, exchange: Exchange) -> Self {
        download.settle(&exchange);
        Self(Content::Upstream(download, exchange))
    }

    /// None, since after the head the connection is the tunnel's, or the stream.
    #[must_use]
    pub fn tunnel(tunnel: Tunnel) -> Self {
        Self(Content::Tunnel(Some(Box::new(tunnel))))
    }

    /// The tunnel that follows the head.
    #[must_use]
    pub fn take_tunnel(&mut self) -> Option<Tunnel> {
        match &mut self.0 {
            Content::Tunnel(tunnel) => tunnel.take().map(|tunnel| *tunnel),
            _ => None,
        }
    }
}

impl Download {
    /// Gives the connection back once the body has ended.
    fn settle(&mut self, exchange: &Exchange) {
        if self.is_end_stream() {
            self.end(exchange);
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1 => self.http1().is_none_or(Http1::is_end_stream),
            Source::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1 => self.http1().map_or(SizeHint::with_exact(0), Http1::size_hint),
            Source::Http2(incoming) => incoming.size_hint(),
        }
    }

    fn http1(&self) -> Option<&Http1> {
        self.lease.as_ref()?.http1()
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.source {
            Source::Http1 => {
                let Some(link) = self.lease.as_mut().and_then(Lease::http1_mut) else {
                    return Poll::Ready(None);
                };
                link.poll_frame(cx).map_err(Broken::from)
            }
            Source::Http2(incoming) => incoming.poll_frame(cx).map_err(Broken::from),
        }
    }

    /// A request's body that nobody needs any more: an HTTP/2 client is told to stop (RFC 9113 section 8.1), which is what
    /// happens when we stop reading it; over HTTP/1.1 reading on is all that keeps the connection.
    fn end(&mut self, exchange: &Exchange) {
        exchange.is_answered();
        if let Some(lease) = self.lease.take() {
            lease.give_back(exchange.client().http2);
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        self.offered = None;
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match self.poll_source(cx) {
            Poll::Pending => self.poll_stalled(cx).map(|stalled| Some(Err(stalled))),
            Poll::Ready(Some(Ok(frame))) => {
                self.deadline = None;
                self.offered = exchange.offers(frame.data_ref().map_or(0, Bytes::len));
                self.settle(exchange);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.breaks(cx, error);
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.end(exchange);
                Poll::Ready(None)
            }
        }
    }

    fn poll_piped(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &Exchange,
        most: usize,
    ) -> Poll<Option<Result<Piped, DownloadError>>> {
        let Some(link) = self.lease.as_mut().and_then(Lease::http1_mut) else { return Poll::Ready(None) };
        match link.poll_piped(cx, most, &exchange.client().worker.pipes) {
            Poll::Pending => self.poll_stalled(cx).map(|stalled| Some(Err(stalled))),
            Poll::Ready(Some(Ok(piped))) => {
                self.deadline = None;
                self.settle(exchange);
                Poll::Ready(Some(Ok(piped)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.breaks(cx, error.into());
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }

    /// Waits until the next piece has taken too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<DownloadError> {
        let limit = self.patience;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + limit);
        let Some(lease) = &mut self.lease else { return Poll::Pending };
        ready!(lease.timer().poll(cx, deadline));
        self.lease = None;
        Poll::Ready(DownloadError::Stalled)
    }

    /// An error is the end of the connection, so what came before gets a chance to be written first.
    fn breaks(&mut self, cx: &Context<'_>, error: Broken) {
        self.lease = None;
        self.broken = Some(DownloadError::Broken(error));
        cx.waker().wake_by_ref();
    }
}

impl Bulk for ResponseBody {
    fn poll_piped(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Option<Result<Piped, DownloadError>>> {
        let Content::Upstream(download, exchange) = &mut self.0 else { return Poll::Ready(None) };
        let piped = download.poll_piped(cx, exchange, most);
        match &piped {
            Poll::Ready(Some(Ok(piped))) => exchange.sends(piped.bytes()),
            Poll::Ready(Some(Err(error))) => exchange.breaks_off(error),
            _ => {}
        }
        piped
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let (frame, exchange) = match &mut self.0 {
            Content::Text(text, exchange) => {
                let text = std::mem::take(text);
                (Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text)))), exchange)
            }
            Content::Upstream(download, exchange) => (download.poll_frame(cx, exchange), exchange),
            Content::Tunnel(_) => return Poll::Ready(None),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => exchange.sends(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(error))) => exchange.breaks_off(error),
            _ => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Text(text, _) => text.is_empty(),
            Content::Upstream(download, _) => download.is_end_stream(),
            Content::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Text(text, _) => SizeHint::with_exact(text.len() as u64),
            Content::Upstream(download, _) => download.size_hint(),
            Content::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}
