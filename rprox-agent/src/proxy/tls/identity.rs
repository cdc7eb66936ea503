//! Who a client is by its certificate, and what upstreams are told of it.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::client_auth::ClientCa;
use crate::proxy::forward::headers;

/// The certificate, as RFC 9440 has it.
const CERTIFICATE: HeaderName = HeaderName::from_static("client-cert");
/// Its chain, which is not passed on, and so must not come from anybody else either.
const CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// Its subject, as RFC 4514 writes names.
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
/// The SHA-256 of its DER form, in hexadecimal.
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-sha256");

/// The certificate that a client has shown and proved to be its own.
pub struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    certificate: HeaderValue,
    subject: HeaderValue,
    fingerprint: HeaderValue,
    /// Which CAs were asked about it, and what they said: the same for the life of the connection.
    answers: RefCell<Vec<(Arc<ClientCa>, bool)>>,
}

impl ClientIdentity {
    /// Of a client that showed `chain`. `None` where it is empty.
    #[must_use]
    pub fn new(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let first = chain.first()?;
        let subject = X509Certificate::from_der(first).map(|(_, parsed)| written(parsed.subject()));
        Some(Self {
            certificate: value(&format!(":{}:", BASE64.encode(first))),
            subject: value(&subject.unwrap_or_default()),
            fingerprint: value(&HEXLOWER.encode(&Sha256::digest(first))),
            chain: chain.to_vec(),
            answers: RefCell::default(),
        })
    }

    /// Whether `ca` vouches for it.
    #[must_use]
    pub fn satisfies(&self, ca: &Arc<ClientCa>) -> bool {
        let mut answers = self.answers.borrow_mut();
        if let Some((_, answer)) = answers.iter().find(|(asked, _)| Arc::ptr_eq(asked, ca)) {
            return *answer;
        }
        let answer = ca.vouches_for(&self.chain);
        // After a reload others are asked; those of before are let go.
        answers.retain(|(asked, _)| Arc::strong_count(asked) > 1);
        answers.push((Arc::clone(ca), answer));
        answer
    }

    /// Tells the upstream.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(CERTIFICATE, self.certificate.clone());
        headers.insert(SUBJECT, self.subject.clone());
        headers.insert(FINGERPRINT, self.fingerprint.clone());
    }
}

/// Takes off what only this agent may say; `thoroughly` also what has underscores for hyphens, which many upstreams can't tell
/// apart.
pub fn remove_claims(headers: &mut HeaderMap, thoroughly: bool) {
    headers::remove_all(headers, [CERTIFICATE, CHAIN, SUBJECT, FINGERPRINT]);
    if thoroughly {
        let disguised = headers.keys().filter(|name| name.as_str().contains('_') && is_claim(name));
        for name in disguised.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
}

fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    [CERTIFICATE, CHAIN, SUBJECT, FINGERPRINT].iter().any(|claim| claim.as_str() == name)
}

fn value(text: &str) -> HeaderValue {
    // Made of visible ASCII alone.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// A name as RFC 4514 writes it, the most specific part first, so that none of it can be taken for another part. What is not
/// printable ASCII is written in hexadecimal, as section 2.4 lets everything be.
fn written(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(written_attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn written_attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    let kind = match kind.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        other => other,
    };
    match attribute.as_str() {
        Ok(text) => format!("{kind}={}", escaped(text)),
        Err(_) => format!("{kind}=#{}", HEXLOWER.encode(attribute.as_slice())),
    }
}

fn escaped(text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for (place, byte) in text.bytes().enumerate() {
        let at_an_end = place == 0 || place + 1 == text.len();
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                written.push('\\');
                written.push(char::from(byte));
            }
            b'#' if place == 0 => written.push_str("\\#"),
            b' ' if at_an_end => written.push_str("\\ "),
            b' '..=b'~' => written.push(char::from(byte)),
            // Writing to a text does not fail.
            _ => drop(write!(written, "\\{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn no_part_of_a_subject_can_be_taken_for_another() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Acme, CN=admin");
        params.distinguished_name.push(DnType::CommonName, " b\u{fc}cher\r\nX: y");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let identity = ClientIdentity::new(&[certificate.der().clone()]).unwrap();
        let subject = "O=Acme\\, CN\\=admin,CN=\\ b\\C3\\BCcher\\0D\\0AX: y";
        assert_eq!(identity.subject, subject);
        assert_eq!(identity.fingerprint.len(), 64);
        assert!(identity.certificate.to_str().unwrap().starts_with(":MII"));
    }

    #[test]
    fn claims_are_taken_off_however_they_are_spelled() {
        let mut headers = HeaderMap::new();
        for name in
            ["client-cert", "client_cert", "x_client-cert_subject", "client-cert-chain", "x-other_field"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        remove_claims(&mut headers, true);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other_field"]);
    }
}
