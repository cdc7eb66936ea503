//! The account with the ACME server, kept in the state folder.

#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use instant_acme::{Account, AccountCredentials, CertificateIdentifier, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::client::{Https, RetryAfter};
use super::error::AcmeError;
use super::order;
use super::schedule::Plan;
use crate::proxy::config::{AcmeConfig, CertificateFiles};
use crate::proxy::state::StateFolder;
use crate::proxy::tls::Certificate;
use crate::proxy::tls::challenges::Challenges;

/// How long an order may take, from the first word to the certificate.
const ORDER_PATIENCE: Duration = Duration::from_mins(5);

/// What is kept of an account.
#[derive(Serialize, Deserialize)]
struct Kept {
    contacts: Vec<String>,
    credentials: AccountCredentials,
}

/// The account of a configuration, opened when it is first needed.
pub(super) struct Accounts<'a> {
    config: &'a AcmeConfig,
    state: StateFolder,
    open: Option<Account>,
    retry_after: RetryAfter,
}

/// What the server says of when to renew a certificate (RFC 9773).
#[derive(Clone, Copy, Debug)]
pub(super) enum Suggestion {
    /// Between these times; and how long to go by that.
    Between { start: SystemTime, end: SystemTime, ask_again: Duration },
    /// It never says.
    Never,
    /// It did not say this time.
    NotNow,
}

impl<'a> Accounts<'a> {
    pub(super) fn new(config: &'a AcmeConfig, state: StateFolder) -> Self {
        Self { config, state, open: None, retry_after: RetryAfter::default() }
    }

    /// How long the server asked to be left alone when it last refused.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after.take()
    }

    /// A certificate for `host` with its key, PEM.
    pub(super) async fn order(
        &mut self,
        host: &str,
        plan: &Plan,
        challenges: &Challenges,
    ) -> Result<String, AcmeError> {
        let ordered = timeout(ORDER_PATIENCE, async {
            let account = self.account().await?;
            let replaced =
                plan.replaces.then(|| self.config.files(host)).and_then(|files| identifier(&files));
            order::obtain(&account, host, plan.challenge, challenges, replaced).await
        });
        let result = ordered.await.unwrap_or(Err(AcmeError::TimedOut(ORDER_PATIENCE)));
        match &result {
            Err(error) if error.is_lost_account() => {
                tracing::warn!("the ACME server knows our account no more: another is made");
                self.state.remove(&self.file())?;
                self.open = None;
            }
            // Whatever went wrong, the next attempt begins from the beginning.
            Err(_) => self.open = None,
            Ok(_) => {}
        }
        result
    }

    /// When the server suggests to renew the certificate in `files`.
    pub(super) async fn suggestion(&mut self, files: &CertificateFiles) -> Suggestion {
        let Some(identifier) = identifier(files) else { return Suggestion::Never };
        let told = match self.account().await {
            Ok(account) => account.renewal_info(&identifier).await.map_err(AcmeError::from),
            Err(error) => Err(error),
        };
        match told {
            Ok((told, ask_again)) => Suggestion::Between {
                start: told.suggested_window.start.into(),
                end: told.suggested_window.end.into(),
                ask_again,
            },
            Err(AcmeError::Server(instant_acme::Error::Unsupported(_))) => Suggestion::Never,
            Err(error) => {
                tracing::debug!(%error, "the ACME server does not say when to renew");
                Suggestion::NotNow
            }
        }
    }

    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.open {
            return Ok(account.clone());
        }
        let account = match self.kept()? {
            Some(kept) => self.restore(kept).await?,
            None => self.create().await?,
        };
        self.open = Some(account.clone());
        Ok(account)
    }

    /// Its name: an account is one server's.
    fn file(&self) -> String {
        format!("account-{}.json", &HEXLOWER.encode(&Sha256::digest(&self.config.directory))[..16])
    }

    fn kept(&self) -> Result<Option<Kept>, AcmeError> {
        let name = self.file();
        let Some(text) = self.state.read(&name)? else { return Ok(None) };
        let kept = serde_json::from_slice(&text);
        kept.map(Some).map_err(|error| AcmeError::Account { path: self.state.path(&name), error })
    }

    fn keep(&self, credentials: AccountCredentials) -> Result<(), AcmeError> {
        let name = self.file();
        let kept = Kept { contacts: self.config.contacts.clone(), credentials };
        let text = serde_json::to_vec(&kept)
            .map_err(|error| AcmeError::Account { path: self.state.path(&name), error })?;
        Ok(self.state.write(&name, &text)?)
    }

    async fn create(&self) -> Result<Account, AcmeError> {
        let builder = Account::builder_with_http(Box::new(self.https()?));
        let contacts = self.contacts();
        let account =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let external = self.config.external_account.as_ref();
        let external = external.map(|external| ExternalAccountKey::new(external.kid.clone(), &external.key));
        let (account, credentials) =
            builder.create(&account, self.config.directory.clone(), external.as_ref()).await?;
        self.keep(credentials)?;
        tracing::info!("account {} made with the ACME server", account.id());
        Ok(account)
    }

    async fn restore(&self, kept: Kept) -> Result<Account, AcmeError> {
        let builder = Account::builder_with_http(Box::new(self.https()?));
        let other_contacts = kept.contacts != self.config.contacts;
        let account = builder.from_credentials(kept.credentials).await?;
        if other_contacts {
            account.update_contacts(&self.contacts()).await?;
            if let Some(Kept { credentials, .. }) = self.kept()? {
                self.keep(credentials)?;
            }
        }
        Ok(account)
    }

    fn https(&self) -> Result<Https, AcmeError> {
        Https::new(self.config, self.retry_after.clone())
    }

    fn contacts(&self) -> Vec<&str> {
        self.config.contacts.iter().map(String::as_str).collect()
    }
}

/// What the server knows the certificate in `files` by.
fn identifier(files: &CertificateFiles) -> Option<CertificateIdentifier<'static>> {
    let certificate = Certificate::load(files).ok()?;
    let identifier = CertificateIdentifier::try_from(certificate.chain().first()?).ok()?;
    Some(identifier.into_owned())
}
