//! One order: for one host, validated in one way.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, KeyAuthorization,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::error::AcmeError;
use crate::proxy::config::{AcmeChallenge, CertificateFiles};
use crate::proxy::tls::Certificate;
use crate::proxy::tls::challenges::{Answer, Challenges};

/// How to wait for the server: a validation takes it seconds, looking from several places.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(90));

/// An answer that is given as long as this lives.
struct Answering<'a> {
    challenges: &'a Challenges,
    host: &'a str,
}

impl<'a> Answering<'a> {
    fn begin(challenges: &'a Challenges, host: &'a str, answer: &Answer) -> Self {
        challenges.begin(host, answer);
        Self { challenges, host }
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.challenges.end(self.host);
    }
}

/// A certificate for `host` with its key, PEM; `replaced` is the one that it takes the place of.
pub(super) async fn obtain(
    account: &Account,
    host: &str,
    challenge: AcmeChallenge,
    challenges: &Challenges,
    replaced: Option<CertificateIdentifier<'static>>,
) -> Result<String, AcmeError> {
    let identifiers = [Identifier::Dns(host.to_owned())];
    let mut new = NewOrder::new(&identifiers);
    if let Some(replaced) = replaced {
        new = new.replaces(replaced);
    }
    let mut order = account.new_order(&new).await?;
    {
        let _answering = answer(&mut order, host, challenge, challenges).await?;
        let polled = order.poll_ready(&POLLS).await;
        if !matches!(polled, Ok(OrderStatus::Ready)) {
            let reason = why(&mut order, challenge).await;
            return Err(match (reason, polled) {
                (Some(reason), _) => AcmeError::Invalid {
                    challenge: name(challenge),
                    port: if challenge == AcmeChallenge::Http01 { 80 } else { 443 },
                    reason,
                },
                (None, Err(error)) => error.into(),
                (None, Ok(_)) => instant_acme::Error::Str("an order that went well").into(),
            });
        }
    }
    let (request, key) = request(host)?;
    order.finalize_csr(&request).await?;
    let chain = order.poll_certificate(&POLLS).await?;
    let pem = format!("{}\n{}", chain.trim_end(), key);
    check(&pem, host)?;
    Ok(pem)
}

/// Answers the order's validations. There is none where the host was validated not long ago.
async fn answer<'a>(
    order: &mut Order,
    host: &'a str,
    challenge: AcmeChallenge,
    challenges: &'a Challenges,
) -> Result<Option<Answering<'a>>, AcmeError> {
    let mut answering = None;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut handle = authorization.challenge(kind(challenge)).ok_or(AcmeError::NoChallenge)?;
        let answer = make(challenge, host, &handle.token, &handle.key_authorization())?;
        answering = Some(Answering::begin(challenges, host, &answer));
        handle.set_ready().await?;
    }
    Ok(answering)
}

fn make(
    challenge: AcmeChallenge,
    host: &str,
    token: &str,
    key: &KeyAuthorization,
) -> Result<Answer, AcmeError> {
    match challenge {
        AcmeChallenge::Http01 => Ok(Answer::Http { token: token.to_owned(), body: key.as_str().to_owned() }),
        AcmeChallenge::TlsAlpn01 => {
            let mut params = CertificateParams::new(vec![host.to_owned()])?;
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(key.digest().as_ref())];
            let pair = KeyPair::generate()?;
            let certificate = params.self_signed(&pair)?;
            let private = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
            Ok(Answer::tls(certificate.der().clone(), private)?)
        }
    }
}

/// What the server says of a validation that failed.
async fn why(order: &mut Order, challenge: AcmeChallenge) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let state = authorization.refresh().await.ok()?;
        let tried = state.challenges.iter().find(|tried| tried.r#type == kind(challenge));
        if let Some(error) = tried.and_then(|tried| tried.error.as_ref()) {
            return Some(error.detail.clone().unwrap_or_else(|| error.to_string()));
        }
    }
    None
}

/// A request for a certificate (DER) with its key (PEM).
fn request(host: &str) -> Result<(Vec<u8>, String), AcmeError> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate()?;
    Ok((params.serialize_request(&key)?.der().to_vec(), key.serialize_pem()))
}

/// What is shown to clients is looked at first.
fn check(pem: &str, host: &str) -> Result<(), AcmeError> {
    let answer = PathBuf::from("the answer");
    let files = CertificateFiles { cert: answer.clone(), key: answer };
    let certificate = Certificate::parse(pem.as_bytes(), pem.as_bytes(), &files)?;
    if certificate.names.covers(host) { Ok(()) } else { Err(AcmeError::OtherHost) }
}

fn kind(challenge: AcmeChallenge) -> ChallengeType {
    match challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    }
}

fn name(challenge: AcmeChallenge) -> &'static str {
    match challenge {
        AcmeChallenge::TlsAlpn01 => "tls-alpn-01",
        AcmeChallenge::Http01 => "http-01",
    }
}
