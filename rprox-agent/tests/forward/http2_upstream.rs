//! An upstream that speaks HTTP/2 and does with each request what a test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::SetOnce;

pub(crate) struct Http2Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ends: Arc<AtomicUsize>,
}

impl Http2Upstream {
    /// Calls `serve` with each request and where its response goes.
    pub(crate) fn start<F>(serve: impl Fn(Request<RecvStream>, Answer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(server::Builder::new(), serve)
    }

    /// The same, with these settings.
    pub(crate) fn start_with<F>(
        settings: server::Builder,
        serve: impl Fn(Request<RecvStream>, Answer) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_when(Arc::new(SetOnce::new_with(Some(()))), settings, serve)
    }

    /// The same; it says nothing before it `speaks`.
    pub(crate) fn start_when<F>(
        speaks: Arc<SetOnce<()>>,
        settings: server::Builder,
        serve: impl Fn(Request<RecvStream>, Answer) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (begun, ended) = (Arc::clone(&connections), Arc::clone(&ends));
        let serve = Arc::new(std::sync::Mutex::new(serve));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    begun.fetch_add(1, Ordering::Relaxed);
                    let (settings, serve, count) = (settings.clone(), Arc::clone(&serve), Arc::clone(&ended));
                    let speaks = Arc::clone(&speaks);
                    tokio::spawn(async move {
                        speaks.wait().await;
                        let Ok(mut connection) = settings.handshake(tcp).await else { return };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(serve.lock().unwrap()(request, Answer(respond)));
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        });
        Self { address, connections, ends }
    }

    /// As a route names it.
    pub(crate) fn name(&self) -> String {
        format!("h2c://{}", self.address)
    }

    /// How many connections have come.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many have ended.
    pub(crate) fn ended(&self) -> usize {
        self.ends.load(Ordering::Relaxed)
    }
}

/// Where a response goes.
pub(crate) struct Answer(pub(crate) SendResponse<Bytes>);

impl Answer {
    /// An interim response, with a `Link`.
    pub(crate) fn interim(&mut self, status: u16) {
        let interim = Response::builder().status(status).header("link", "</style.css>; rel=preload");
        self.0.send_informational(interim.body(()).unwrap()).unwrap();
    }

    /// The response, whole.
    pub(crate) fn whole(&mut self, status: u16, body: impl Into<Bytes>) {
        let response = Response::builder().status(status).header("x-a", "b").body(()).unwrap();
        let mut stream = self.0.send_response(response, false).unwrap();
        stream.send_data(body.into(), true).unwrap();
    }
}

/// All that comes of a body; `None` if it breaks off.
pub(crate) async fn read(mut body: RecvStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    Some(all)
}
