//! Certificates and handshakes, with a real client.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme, version,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::proxy::config::{CertificateFiles, Config, Flags};
use crate::proxy::route::RouteTable;

fn make(dir: &Path, label: &str, names: &[&str], algorithm: &'static SignatureAlgorithm) -> CertificateFiles {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let files =
        CertificateFiles { cert: dir.join(format!("{label}.crt")), key: dir.join(format!("{label}.key")) };
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    files
}

fn ecdsa(dir: &Path, label: &str, names: &[&str]) -> CertificateFiles {
    make(dir, label, names, &PKCS_ECDSA_P256_SHA256)
}

/// Takes any certificate, signed by `schemes`: these tests look at which one is shown.
#[derive(Debug)]
struct TakeAny(Vec<SignatureScheme>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn client(schemes: &[SignatureScheme], alpn: &[&str], tls12: bool) -> Arc<ClientConfig> {
    let versions: &[_] = if tls12 { &[&version::TLS12] } else { &[&version::TLS13] };
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAny(schemes.to_vec())))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

const BOTH: &[SignatureScheme] = &[
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

struct Seen {
    server: Result<TlsConnection, TlsError>,
    client: io::Result<Vec<u8>>,
    kind: Option<HandshakeKind>,
}

/// A handshake over loopback, with a byte back so that the client has read its tickets.
async fn handshake(acceptor: &TlsAcceptor, config: Arc<ClientConfig>, name: &str) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let Accepted::Terminated(connection) = acceptor.accept(tcp.into(), &RouteTable::default()).await?
        else {
            panic!("neither a validation nor passed through");
        };
        let mut connection = *connection;
        connection.stream.write_all(b"x").await.map_err(TlsError::Handshake)?;
        Ok(connection)
    };
    let ask = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
        tokio::io::AsyncReadExt::read_u8(&mut stream).await?;
        let connection: &ClientConnection = stream.get_ref().1;
        Ok((connection.peer_certificates().unwrap()[0].to_vec(), connection.handshake_kind()))
    };
    let (server, client) = tokio::join!(serve, ask);
    let kind = client.as_ref().ok().and_then(|(_, kind): &(_, Option<HandshakeKind>)| *kind);
    Seen { server, client: client.map(|(certificate, _)| certificate), kind }
}

fn names_of(der: &[u8]) -> Vec<String> {
    use x509_parser::prelude::FromDer;
    let (_, certificate) = x509_parser::prelude::X509Certificate::from_der(der).unwrap();
    CertificateNames::of(&certificate).iter().collect()
}

/// A configuration with one route and these certificates.
fn config(files: &[CertificateFiles]) -> Config {
    let mut config = Config::load(&Flags::of_route("a.example.com", "127.0.0.1:1")).unwrap();
    config.certificates = files.to_vec();
    config
}

fn acceptor(files: &[CertificateFiles]) -> TlsAcceptor {
    TlsAcceptor::new(&config(files), &Arc::default()).unwrap()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_exact_before_wildcard() {
    let dir = tempfile::tempdir().unwrap();
    let acceptor = acceptor(&[
        ecdsa(dir.path(), "first", &["first.example"]),
        ecdsa(dir.path(), "wild", &["*.example.com"]),
        ecdsa(dir.path(), "exact", &["a.example.com"]),
    ]);
    for (asked, shown) in [
        ("a.example.com", "a.example.com"),
        ("A.Example.com", "a.example.com"),
        ("b.example.com", "*.example.com"),
        ("first.example", "first.example"),
        ("127.0.0.1", "first.example"),
    ] {
        let seen = handshake(&acceptor, client(BOTH, &[], false), asked).await;
        assert_eq!(names_of(&seen.client.unwrap()), [shown], "{asked}");
    }
}

#[tokio::test]
async fn an_unknown_name_gets_the_alert_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let acceptor = acceptor(&[ecdsa(dir.path(), "a", &["a.example.com"])]);
    for tls12 in [false, true] {
        let seen = handshake(&acceptor, client(BOTH, &[], tls12), "b.example.com").await;
        let server = seen.server.err().unwrap().to_string();
        assert!(server.contains("\"b.example.com\""), "{server}");
        let client = seen.client.unwrap_err().to_string();
        assert!(client.contains("UnrecognisedName"), "{client}");
    }
}

#[tokio::test]
async fn of_two_certificates_for_a_name_the_client_gets_the_one_it_can_use() {
    let dir = tempfile::tempdir().unwrap();
    let rsa = make(dir.path(), "rsa", &["a.example.com"], &PKCS_RSA_SHA256);
    let ecdsa = ecdsa(dir.path(), "ecdsa", &["a.example.com"]);
    let acceptor = acceptor(&[rsa.clone(), ecdsa.clone()]);
    let der = |files: &CertificateFiles| {
        use rustls::pki_types::pem::PemObject;
        CertificateDer::from_pem_file(&files.cert).unwrap().to_vec()
    };
    for tls12 in [false, true] {
        let seen = handshake(&acceptor, client(BOTH, &[], tls12), "a.example.com").await;
        assert_eq!(seen.client.unwrap(), der(&ecdsa), "ECDSA where the client takes both");
        let seen = handshake(&acceptor, client(&BOTH[1..], &[], tls12), "a.example.com").await;
        assert_eq!(seen.client.unwrap(), der(&rsa), "RSA where the client takes nothing else");
    }
}

#[tokio::test]
async fn http2_is_agreed_on_where_the_client_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let acceptor = acceptor(&[ecdsa(dir.path(), "a", &["a.example.com", "*.b.example.com"])]);
    for (alpn, http2) in [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false), (&[], false)] {
        let connection =
            handshake(&acceptor, client(BOTH, alpn, false), "a.example.com").await.server.unwrap();
        assert_eq!(connection.http2, http2, "{alpn:?}");
        assert!(connection.secured.covers.covers("a.example.com"));
        assert!(connection.secured.covers.covers("x.b.example.com"));
        assert!(!connection.secured.covers.covers("b.example.com"));
        assert!(!connection.secured.covers.covers("x.y.b.example.com"));
        assert!(!connection.secured.covers.covers("other.example"));
    }
}

#[tokio::test]
async fn sessions_resume_after_a_reload_with_another_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Arc::default();
    let files = [ecdsa(dir.path(), "a", &["a.example.com"])];
    let before = TlsAcceptor::new(&config(&files), &kept).unwrap();
    let clients = [false, true].map(|tls12| client(BOTH, &[], tls12));
    for client in &clients {
        let first = handshake(&before, Arc::clone(client), "a.example.com").await;
        assert!(matches!(first.kind, Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)));
    }
    let files = [ecdsa(dir.path(), "b", &["a.example.com"])];
    let after = TlsAcceptor::new(&config(&files), &kept).unwrap();
    for client in &clients {
        let second = handshake(&after, Arc::clone(client), "a.example.com").await;
        assert_eq!(second.kind, Some(HandshakeKind::Resumed));
        assert!(second.server.unwrap().resumed);
    }
}

#[tokio::test]
async fn a_session_that_began_without_a_certificate_does_not_resume_where_one_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Arc::default();
    let files = ecdsa(dir.path(), "a", &["a.example.com"]);
    let mut config = config(std::slice::from_ref(&files));
    let before = TlsAcceptor::new(&config, &kept).unwrap();
    let clients = [false, true].map(|tls12| client(BOTH, &[], tls12));
    for client in &clients {
        handshake(&before, Arc::clone(client), "a.example.com").await.client.unwrap();
    }
    let ca = Arc::new(client_auth::ClientCa::load(&files.cert, None).unwrap());
    Arc::make_mut(&mut config.routes[0]).client_auth = Some(client_auth::ClientAuth { ca, required: true });
    let after = TlsAcceptor::new(&config, &kept).unwrap();
    for client in &clients {
        let seen = handshake(&after, Arc::clone(client), "a.example.com").await;
        assert_ne!(seen.kind, Some(HandshakeKind::Resumed));
        assert_eq!(seen.server.unwrap().secured.asked_for.as_deref(), Some("a.example.com"));
    }
}

#[tokio::test]
async fn tls_1_3_alone_is_spoken_where_that_is_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&[ecdsa(dir.path(), "a", &["a.example.com"])]);
    config.tls.min_version = crate::proxy::config::TlsVersion::Tls13;
    let acceptor = TlsAcceptor::new(&config, &Arc::default()).unwrap();
    let seen = handshake(&acceptor, client(BOTH, &[], true), "a.example.com").await;
    let error = seen.client.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    assert!(handshake(&acceptor, client(BOTH, &[], false), "a.example.com").await.client.is_ok());
}

#[tokio::test]
async fn new_files_are_shown_and_bad_ones_leave_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = ecdsa(dir.path(), "a", &["a.example.com"]);
    let acceptor = acceptor(std::slice::from_ref(&files));
    let shown = async || {
        names_of(&handshake(&acceptor, client(BOTH, &[], false), "a.example.com").await.client.unwrap())
            .join(" ")
    };
    let (first, second) = (
        ecdsa(one.path(), "x", &["a.example.com", "one"]),
        ecdsa(two.path(), "x", &["a.example.com", "two"]),
    );

    fs::copy(&first.cert, &files.cert).unwrap();
    acceptor.refresh();
    assert_eq!(shown().await, "a.example.com", "the certificate is there, its key is not yet");
    fs::copy(&first.key, &files.key).unwrap();
    acceptor.refresh();
    assert_eq!(shown().await, "a.example.com one");
    fs::write(&files.cert, "junk").unwrap();
    acceptor.refresh();
    fs::remove_file(&files.cert).unwrap();
    acceptor.refresh();
    assert_eq!(shown().await, "a.example.com one");
    fs::copy(&second.key, &files.key).unwrap();
    fs::copy(&second.cert, &files.cert).unwrap();
    acceptor.refresh();
    assert_eq!(shown().await, "a.example.com two");
}

#[test]
fn covers_asks_every_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let certificates = Certificates::load(&[
        ecdsa(dir.path(), "a", &["a.example.com", "192.0.2.1", "2001:db8::1"]),
        ecdsa(dir.path(), "b", &["*.b.example.com"]),
    ])
    .unwrap();
    for host in ["a.example.com", "192.0.2.1", "[2001:db8::1]", "x.b.example.com"] {
        assert!(certificates.covers(host), "{host}");
    }
    for host in ["b.example.com", "x.a.example.com", "192.0.2.2", "x.y.b.example.com"] {
        assert!(!certificates.covers(host), "{host}");
    }
    assert!(!certificates.is_empty());
}

#[test]
fn files_that_do_not_serve_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let good = ecdsa(dir.path(), "good", &["a.example.com"]);
    let other = ecdsa(dir.path(), "other", &["a.example.com"]);
    let junk = dir.path().join("junk");
    fs::write(&junk, "junk").unwrap();
    let nameless = make(dir.path(), "nameless", &[], &PKCS_ECDSA_P256_SHA256);
    let missing = dir.path().join("missing");
    for (cert, key, reason) in [
        (&good.cert, &other.key, "is not the private key of"),
        (&junk, &good.key, "no certificate in it"),
        (&good.cert, &junk, "no private key in it"),
        (&missing, &good.key, "No such file"),
        (&nameless.cert, &nameless.key, "subjectAltName"),
    ] {
        let files = CertificateFiles { cert: cert.clone(), key: key.clone() };
        let error = Certificates::load(&[files]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn what_an_operator_should_mend_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let files = ecdsa(dir.path(), "a", &["a.example.com"]);
    assert_eq!(Certificate::load(&files).unwrap().warnings, Vec::<String>::new());

    fs::set_permissions(&files.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let warnings = Certificate::load(&files).unwrap().warnings;
    assert!(warnings[0].contains("chmod o="), "{warnings:?}");

    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    let warnings = Certificate::load(&files).unwrap().warnings;
    assert!(warnings[0].contains("expired on"), "{warnings:?}");
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_by_its_lifetime() {
    let dir = tempfile::tempdir().unwrap();
    let files = ecdsa(dir.path(), "a", &["a.example.com"]);
    let warnings_of = |begun: Duration, left: Duration| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let now = SystemTime::now();
        params.not_before = (now - begun).into();
        params.not_after = (now + left).into();
        fs::write(&files.cert, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        Certificate::load(&files).unwrap().warnings
    };
    let day = Duration::from_hours(24);
    assert_eq!(warnings_of(day * 82, day * 8), Vec::<String>::new());
    assert!(warnings_of(day * 84, day * 6)[0].contains("ends soon"));
    assert_eq!(warnings_of(day, day), Vec::<String>::new(), "a short-lived one is renewed late");
}
