//! What sessions resume by: it outlives every reload, so that clients don't notice one.
//!
//! A session resumes without its client's certificate being asked for again. So there is a set of keys for each way of asking
//! (no certificate, or one of these CAs): a session never resumes where more is asked than was when it began.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::aws_lc_rs;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache};

use super::TlsError;

/// Sessions without tickets that are remembered, for TLS 1.2 clients that know none.
const SESSIONS: usize = 4096;

/// Which CAs' certificates are asked for: their digests, none for no certificate.
pub(super) type Asked = Vec<[u8; 32]>;

/// What the sessions that began in one way resume by.
#[derive(Clone)]
pub(super) struct Kept {
    /// Ticket keys. Each makes tickets for six hours and takes them for six more.
    pub(super) tickets: Arc<dyn ProducesTickets>,
    pub(super) sessions: Arc<ServerSessionMemoryCache>,
}

/// What sessions resume by, for each way of asking for certificates.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Asked, Kept>>);

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// What there is for `asked`, made now if it is new.
    pub(super) fn of(&self, asked: &Asked) -> Result<Kept, TlsError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get(asked) {
            return Ok(kept.clone());
        }
        let kept = Kept {
            tickets: aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?,
            sessions: ServerSessionMemoryCache::new(SESSIONS),
        };
        all.insert(asked.clone(), kept.clone());
        Ok(kept)
    }

    /// Forgets all but these.
    pub(super) fn keep(&self, used: &[Asked]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|asked, _| used.contains(asked));
    }
}
