//! HTTPS to the ACME server, with an ear for `Retry-After`.

#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::error::AcmeError;
use crate::proxy::config::AcmeConfig;
use crate::proxy::dns::SystemNames;

/// How long one request may take, to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// When the server wants to be asked again.
#[derive(Clone, Debug, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<SystemTime>>>);

impl RetryAfter {
    /// How long that is from now; told once.
    pub(super) fn take(&self) -> Option<Duration> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        told.duration_since(SystemTime::now()).ok()
    }

    fn note(&self, headers: &HeaderMap) {
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(read);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = after;
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn read(text: &str) -> Option<SystemTime> {
    match text.trim().parse::<u64>() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text.trim()).ok(),
    }
}

/// Asks over HTTPS.
pub(super) struct Https {
    client: Client<HttpsConnector<HttpConnector<SystemNames>>, BodyWrapper<Bytes>>,
    retry_after: RetryAfter,
    patience: Duration,
}

impl Https {
    /// A client that believes the system's roots, or those that `config` names.
    pub(super) fn new(config: &AcmeConfig, retry_after: RetryAfter) -> Result<Self, AcmeError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let setup = |error: rustls::Error| AcmeError::Setup(error.to_string());
        let builder = HttpsConnectorBuilder::new();
        let builder = match &config.ca {
            None => builder
                .with_provider_and_platform_verifier(provider)
                .map_err(|error| AcmeError::Setup(error.to_string()))?,
            Some(path) => {
                let bad = |reason: String| AcmeError::Ca { path: path.clone(), reason };
                let mut roots = RootCertStore::empty();
                for root in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
                    let root = root.map_err(|error| bad(error.to_string()))?;
                    roots.add(root).map_err(|error| bad(error.to_string()))?;
                }
                let tls = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(setup)?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                builder.with_tls_config(tls)
            }
        };
        let mut connector = HttpConnector::new_with_resolver(SystemNames);
        connector.enforce_http(false);
        let connector = builder.https_only().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, retry_after, patience: PATIENCE })
    }

    /// The date of the answer to a GET of `uri`, if it says one.
    pub(super) async fn date_of(&self, uri: &str) -> Result<Option<SystemTime>, String> {
        let request = Request::get(uri).body(BodyWrapper::default()).map_err(|error| error.to_string())?;
        let parts = self.request(request).await.map_err(|error| super::error::chain(&error))?.parts;
        if !parts.status.is_success() {
            return Err(format!("it answers {}", parts.status));
        }
        let date = parts.headers.get(DATE).and_then(|value| value.to_str().ok());
        Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let asked = self.client.request(request);
        let (retry_after, patience) = (self.retry_after.clone(), self.patience);
        Box::pin(async move {
            let answer = async {
                let (parts, body) = asked.await.map_err(|error| Error::Other(Box::new(error)))?.into_parts();
                // A server that falls silent in the middle would hold up all hosts for good.
                let body = body.collect().await.map_err(|error| Error::Other(Box::new(error)))?;
                Ok::<_, Error>(BytesResponse { parts, body: Box::new(body.to_bytes()) })
            };
            let answer = match tokio::time::timeout(patience, answer).await {
                Ok(answer) => answer?,
                Err(elapsed) => return Err(Error::Other(Box::new(elapsed))),
            };
            let status = answer.parts.status;
            if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                retry_after.note(&answer.parts.headers);
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::thread;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ServerConfig, ServerConnection, Stream};

    use super::*;

    #[test]
    fn a_server_that_falls_silent_in_the_middle_of_an_answer_is_waited_for_as_long_as_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut tcp = listener.accept().unwrap().0;
            let mut tls = ServerConnection::new(Arc::new(server)).unwrap();
            let mut stream = Stream::new(&mut tls, &mut tcp);
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{").unwrap();
            // Until the client has gone.
            let _ = stream.read(&mut [0; 4096]);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async {
            let roots = Https::new(&config(ca), RetryAfter::default()).unwrap();
            let https = Https { patience: Duration::from_secs(1), ..roots };
            let request =
                Request::get(format!("https://{address}/dir")).body(BodyWrapper::default()).unwrap();
            https.request(request).await.err()
        });
        assert!(super::super::error::chain(&error.unwrap()).contains("elapsed"));
    }

    fn config(ca: PathBuf) -> AcmeConfig {
        AcmeConfig {
            directory: String::new(),
            contacts: Vec::new(),
            challenges: Vec::new(),
            hosts: Vec::new(),
            state: PathBuf::new(),
            ca: Some(ca),
            retry: Duration::from_mins(1),
            external_account: None,
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let in_an_hour = SystemTime::now() + Duration::from_hours(1);
        for text in ["3600".to_owned(), httpdate::fmt_http_date(in_an_hour)] {
            let retry_after = RetryAfter::default();
            let headers = [(RETRY_AFTER, text.parse().unwrap())].into_iter().collect();
            retry_after.note(&headers);
            let wait = retry_after.take().unwrap();
            assert!((3590..=3600).contains(&wait.as_secs()), "{text}: {wait:?}");
            assert_eq!(retry_after.take(), None);
        }
        assert_eq!(read("soon"), None);
        assert_eq!(read("99999999999999999999"), None);
    }
}
