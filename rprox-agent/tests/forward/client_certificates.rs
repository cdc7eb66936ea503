//! Routes that are for clients with a certificate.

use std::fs;
use std::io::Write;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rprox_tests::wait;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

use crate::agent::{Agent, PATIENCE};
use crate::client::{Reply, ask, connect, read_reply};
use crate::upstream::Upstream;

/// A CA of clients.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        Self::named("clients")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name`, with its key.
    fn sign(&self, name: &str) -> (CertificateDer<'static>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(name.as_bytes().to_vec()));
        (params.signed_by(&key, &self.0).unwrap().der().clone(), key.serialize_der())
    }

    /// Its list, in force until the end of a `year`, of what it has revoked: the certificates for `names`.
    fn revokes(&self, names: &[&str], year: i32) -> String {
        let revoked = |name: &&str| RevokedCertParams {
            serial_number: SerialNumber::from(name.as_bytes().to_vec()),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// An agent that serves `secure.example` to clients that `ca` vouches for, `secure.example/any` to all, and
/// `other.example` without asking.
fn agent(ca: &Ca, upstream: &Upstream) -> (Agent, TempDir) {
    agent_with(ca, None, upstream)
}

/// The same, for clients whose certificates are not revoked by `list`: the file `crl.pem` in the folder.
fn agent_with_list(ca: &Ca, list: &str, upstream: &Upstream) -> (Agent, TempDir) {
    agent_with(ca, Some(list), upstream)
}

fn agent_with(ca: &Ca, list: Option<&str>, upstream: &Upstream) -> (Agent, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (address, ca) = (upstream.address, file("clients.pem", &ca.0.pem()));
    let list = list.map(|list| format!("client_crl = \"{}\"\n", file("crl.pem", list))).unwrap_or_default();
    let route = format!(
        "[[route]]\nhost = \"secure.example\"\nupstream = \"{address}\"\nclient_ca = \"{ca}\"\n{list}"
    );
    let routes =
        format!("{route}https_redirect = false\n{route}path = \"/any\"\nclient_cert = \"optional\"\n");
    (Agent::start(&[("other.example", &address.to_string())], &routes), folder)
}

type Identity = (CertificateDer<'static>, Vec<u8>);

fn client(agent: &Agent, identity: Option<&Identity>) -> Arc<ClientConfig> {
    client_of(agent, identity, rustls::ALL_VERSIONS)
}

fn client_of(
    agent: &Agent,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(agent.certificate.clone())).unwrap();
    let config = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
    Arc::new(match identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.clone()).unwrap();
            config.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
        }
        None => config.with_no_client_auth(),
    })
}

type Stream = StreamOwned<ClientConnection, std::net::TcpStream>;

fn open(agent: &Agent, config: &Arc<ClientConfig>, name: &'static str) -> Stream {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(name).unwrap()).unwrap();
    StreamOwned::new(connection, connect(agent.https))
}

fn get(stream: &mut Stream, host: &str, path: &str) -> Reply {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nClient-Cert: :forged:\r\nClient_Cert: :forged:\r\n\
         Client-Cert-Chain: :forged:\r\nX-Client_Cert-Subject: CN=forged\r\n\r\n"
    )
    .unwrap();
    read_reply(stream)
}

#[test]
fn a_client_with_a_certificate_is_served_and_its_upstream_told_who_it_is() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    let mut stream = open(&agent, &client(&agent, Some(&ca.sign("alice"))), "secure.example");
    let reply = get(&mut stream, "secure.example", "/");
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let seen = reply.text();
    assert!(seen.contains("client-cert: :MII"), "{seen}");
    assert!(seen.contains("x-client-cert-subject: CN=alice\r\n"), "{seen}");
    assert!(seen.contains("x-client-cert-sha256: "), "{seen}");
    assert!(!seen.contains("forged"), "{seen}");

    let reply = get(&mut open(&agent, &client(&agent, None), "other.example"), "other.example", "/");
    assert_eq!(reply.status(), 200);
    assert!(!reply.text().contains("client-cert"), "{}", reply.text());
}

#[test]
fn a_client_without_one_is_refused_where_it_is_required() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    let mut stream = open(&agent, &client(&agent, None), "secure.example");
    assert_eq!(get(&mut stream, "secure.example", "/").status(), 403);
    let reply = get(&mut stream, "secure.example", "/any/x");
    assert_eq!(reply.status(), 200);
    assert!(!reply.text().contains("forged") && !reply.text().contains("client-cert"), "{}", reply.text());
    let plain = "GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n";
    assert_eq!(ask(&agent, plain).status(), 403, "nor over plain HTTP");
}

#[test]
fn another_spelling_of_a_path_does_not_get_around_it() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    let mut nobody = open(&agent, &client(&agent, None), "secure.example");
    let mut alice = open(&agent, &client(&agent, Some(&ca.sign("alice"))), "secure.example");
    for path in [
        "/any/../x",
        "/any/%2e%2E/x",
        "/any/..%2fx",
        "/any/a/..//../x",
        "/any/..;/x?y",
        "/any/..\\x",
        // Which the one server reads as below /x, the other as below /any.
        "/any/../x/%252e%252e/any",
        "/any/../x;\\..\\any",
    ] {
        assert_eq!(get(&mut nobody, "secure.example", path).status(), 403, "{path}");
        let reply = get(&mut alice, "secure.example", path);
        assert_eq!(reply.status(), 200, "{path}");
        assert!(reply.text().starts_with(&format!("GET {path} ")), "{}", reply.text());
    }
    for path in ["/any/a%20b;c//d", "/any/x/...", "/%61ny/x"] {
        let expected = if path.starts_with("/any") { 200 } else { 403 };
        assert_eq!(get(&mut nobody, "secure.example", path).status(), expected, "{path}");
    }
}

#[test]
fn a_certificate_of_another_ca_ends_the_handshake() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    // rustls' client shows none that the server's CAs didn't sign; by the same name this one seems to be.
    let mut stream = open(&agent, &client(&agent, Some(&Ca::new().sign("mallory"))), "secure.example");
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n");
    let seen = sent.and_then(|()| std::io::Read::read(&mut stream, &mut [0; 64]));
    assert!(seen.is_err(), "{seen:?}");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn another_host_s_connection_does_not_get_around_it() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    for identity in [None, Some(ca.sign("alice"))] {
        let mut stream = open(&agent, &client(&agent, identity.as_ref()), "other.example");
        for path in ["/", "/any"] {
            assert_eq!(get(&mut stream, "secure.example", path).status(), 421, "{path}");
        }
        assert_eq!(get(&mut stream, "other.example", "/").status(), 200);
    }
}

#[test]
fn a_resumed_session_is_as_good_as_its_certificate() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, _folder) = agent(&ca, &upstream);
    for (version, (identity, status)) in rustls::ALL_VERSIONS
        .iter()
        .flat_map(|version| [(version, (Some(ca.sign("alice")), 200)), (version, (None, 403))])
    {
        let config = client_of(&agent, identity.as_ref(), &[version]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = open(&agent, &config, "secure.example");
            let reply = get(&mut stream, "secure.example", "/");
            assert_eq!(stream.conn.handshake_kind(), Some(kind), "{version:?}");
            assert_eq!(reply.status(), status);
            assert_eq!(reply.text().contains("x-client-cert-subject: CN=alice"), status == 200);
        }
    }
}

#[test]
fn a_certificate_that_is_revoked_is_refused_on_open_connections_too() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    let (agent, folder) = agent_with_list(&ca, &ca.revokes(&["mallory"], 2999), &upstream);
    let status = |stream: &mut Stream| get(stream, "secure.example", "/").status();
    let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|name| client(&agent, Some(&ca.sign(name))));
    let [mut alice_s, mut bob_s, mut mallory_s] =
        [&alice, &bob, &mallory].map(|config| open(&agent, config, "secure.example"));
    assert_eq!([&mut alice_s, &mut bob_s, &mut mallory_s].map(status), [200, 200, 403]);

    let new = folder.path().join("new.pem");
    fs::write(&new, ca.revokes(&["mallory", "alice"], 2999)).unwrap();
    fs::rename(new, folder.path().join("crl.pem")).unwrap();
    let refused = || (status(&mut alice_s) == 403).then_some(());
    wait::until(PATIENCE, "the list to be read again", refused).unwrap();
    assert_eq!(status(&mut bob_s), 200);
    let mut resumed = open(&agent, &alice, "secure.example");
    assert_eq!(status(&mut resumed), 403);
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed));
    let reply = get(&mut resumed, "secure.example", "/any");
    assert_eq!(reply.status(), 200);
    assert!(!reply.text().contains("client-cert"), "as good as none: {}", reply.text());
}

#[test]
fn where_nobody_knows_what_is_revoked_clients_are_refused_and_the_log_says_why() {
    let (ca, upstream) = (Ca::new(), Upstream::mirror());
    for (list, reason) in [
        (ca.revokes(&[], 2021), "a list is out of date"),
        (Ca::named("others").revokes(&[], 2999), "a CA has no list in it"),
        (Ca::new().revokes(&[], 2999), "a list is not signed by its CA"),
    ] {
        let (mut agent, _folder) = agent_with_list(&ca, &list, &upstream);
        let mut stream = open(&agent, &client(&agent, Some(&ca.sign("alice"))), "secure.example");
        assert_eq!(get(&mut stream, "secure.example", "/").status(), 403);
        let line = agent.logged(reason);
        assert!(line.contains("WARN") && line.contains("crl.pem"), "{line}");
    }
}
