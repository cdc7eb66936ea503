//! Fields into header blocks.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use http::header::{
    AGE, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED, LOCATION, SET_COOKIE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{ENTRY, TABLE_SIZE, huffman, integer, static_table};

/// Encodes the blocks of a connection, in their order.
#[derive(Debug)]
pub(in super::super) struct Encoder {
    /// The newest first.
    table: VecDeque<Entry>,
    size: usize,
    limit: usize,
    /// The least limit since the last block, and the present one, which the next one has to begin with.
    changed: Option<(usize, usize)>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Entry {
    /// Of name and value.
    hash: u64,
    name: HeaderName,
    value: HeaderValue,
}

impl Entry {
    fn size(&self) -> usize {
        size(&self.name, &self.value)
    }
}

fn size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + ENTRY
}

impl Encoder {
    pub(in super::super) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: TABLE_SIZE,
            changed: None,
            hasher: RandomState::default(),
        }
    }

    /// The other side's table may hold so much from now on.
    pub(in super::super) fn set_limit(&mut self, limit: usize) {
        let limit = limit.min(TABLE_SIZE);
        let least = self.changed.map_or(self.limit, |(least, _)| least).min(limit);
        if limit != self.limit || self.changed.is_some() {
            self.changed = Some((least, limit));
        }
        self.limit = limit;
        self.evict(0);
    }

    /// Appends a block; `status` where it is a response's head.
    pub(in super::super) fn encode(
        &mut self,
        status: Option<StatusCode>,
        headers: &HeaderMap,
        into: &mut Vec<u8>,
    ) {
        if let Some((least, limit)) = self.changed.take() {
            if least < limit {
                integer::write(least, 5, 0x20, into);
            }
            integer::write(limit, 5, 0x20, into);
        }
        if let Some(status) = status {
            match status.as_u16() {
                200 => into.push(0x88),
                204 => into.push(0x89),
                206 => into.push(0x8a),
                304 => into.push(0x8b),
                400 => into.push(0x8c),
                404 => into.push(0x8d),
                500 => into.push(0x8e),
                _ => {
                    integer::write(8, 4, 0, into);
                    string(status.as_str().as_bytes(), into);
                }
            }
        }
        for (name, value) in headers {
            self.field(name, value, into);
        }
    }

    fn field(&mut self, name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
        // Like nothing before, most likely; or a secret, whose length others should not learn by guessing at it (section 7.1).
        let is_alone = value.is_sensitive() || is_its_own(name) || size(name, value) > self.limit / 2;
        if is_alone {
            let first = if value.is_sensitive() || *name == SET_COOKIE { 0x10 } else { 0 };
            return self.literal(name, value, 4, first, into);
        }
        let hash = self.hasher.hash_one((name.as_str(), value.as_bytes()));
        let same = |entry: &Entry| entry.hash == hash && entry.name == *name && entry.value == *value;
        if let Some(place) = self.table.iter().position(same) {
            return integer::write(static_table::LENGTH + 1 + place, 7, 0x80, into);
        }
        self.literal(name, value, 6, 0x40, into);
        self.evict(size(name, value));
        self.size += size(name, value);
        // A copy: what stays must not keep the buffer that the response has come in.
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        self.table.push_front(Entry { hash, name: name.clone(), value });
    }

    fn literal(&self, name: &HeaderName, value: &HeaderValue, bits: u32, first: u8, into: &mut Vec<u8>) {
        let added = || {
            let place = self.table.iter().position(|entry| entry.name == *name)?;
            Some(static_table::LENGTH + 1 + place)
        };
        if let Some(number) = static_table::NUMBERS.get(name).copied().or_else(added) {
            integer::write(number, bits, first, into);
        } else {
            into.push(first);
            string(name.as_str().as_bytes(), into);
        }
        string(value.as_bytes(), into);
    }

    fn evict(&mut self, size: usize) {
        while self.size + size > self.limit
            && let Some(oldest) = self.table.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

/// Whether a field of this name hardly ever has the value that another message's had.
fn is_its_own(name: &HeaderName) -> bool {
    // Names of the standard are compared by a number.
    [
        AGE,
        AUTHORIZATION,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        COOKIE,
        ETAG,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        LAST_MODIFIED,
        LOCATION,
        SET_COOKIE,
    ]
    .contains(name)
}

fn string(bytes: &[u8], into: &mut Vec<u8>) {
    let length = huffman::length(bytes);
    if length < bytes.len() {
        integer::write(length, 7, 0x80, into);
        huffman::encode(bytes, into);
    } else {
        integer::write(bytes.len(), 7, 0, into);
        into.extend_from_slice(bytes);
    }
}
