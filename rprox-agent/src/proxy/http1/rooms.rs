//! How much of a body to read at a time: all that there may be, so that calls into the kernel don't count, and no more.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use bytes::BytesMut;

/// The least that a worker's room is lent for, and its size: as much as is read, behind what came with a head.
const LENT: usize = 16 * 1024;
const SIZE: usize = MOST + 8 * 1024;

/// How many rooms for what comes first a worker keeps.
const KEPT: usize = 32;

/// As much as is read at a time.
pub const MOST: usize = 128 * 1024;

/// Room for what is `left` of a body, and for `least` at least. A byte more than there is: a read that fills its room is followed by one that
/// looks whether there is more.
#[must_use]
pub fn for_rest(left: u64, least: usize) -> usize {
    usize::try_from(left).map_or(MOST, |left| left.saturating_add(1).clamp(least, MOST))
}

/// Room for the next read, once one into `room` has got so much: more if there was more to be had, less if there was much room
/// for nothing.
#[must_use]
pub fn after(read: usize, room: usize, least: usize) -> usize {
    if read >= room {
        (room * 2).min(MOST)
    } else if read < room / 4 {
        (room / 2).max(least)
    } else {
        room
    }
}

/// A worker's room for a body whose length is known. A piece is mostly written before the next is read, of whatever body: so one room does for all
/// of them, is still in the processor's cache, and isn't given to the kernel and taken back meanwhile.
#[derive(Debug, Default)]
pub struct Room(RefCell<Option<BytesMut>>);

impl Room {
    /// Has so much room behind what is in `buffer`: this one, if it is worth it and nobody has it.
    pub fn reserve(&self, buffer: &mut BytesMut, room: usize) {
        let length = buffer.len() + room;
        if !(LENT..=SIZE).contains(&length) || buffer.capacity() >= length {
            buffer.reserve(room);
            return;
        }
        if buffer.is_empty() {
            // It may be the one that has it.
            *buffer = BytesMut::new();
        }
        let mut own = self.0.borrow_mut();
        let own = own.get_or_insert_with(|| BytesMut::with_capacity(SIZE));
        if own.try_reclaim(length) {
            let before = std::mem::replace(buffer, own.split_off(0));
            buffer.extend_from_slice(&before);
        } else {
            buffer.reserve(room);
        }
    }
}

/// Rooms for what comes first, which a worker's connections have in turn: where nothing comes none is needed, and the one that was used last
/// is still in the processor's cache.
#[derive(Debug, Default)]
pub struct Rooms(RefCell<Vec<BytesMut>>);

impl Rooms {
    /// The one that was used last, or none.
    #[must_use]
    pub fn take(&self) -> BytesMut {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Has another connection have it. What was read into it may still be somebody's.
    pub fn give_back(&self, room: BytesMut) {
        let mut rooms = self.0.borrow_mut();
        if room.capacity() > 0 && rooms.len() < KEPT {
            rooms.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_what_comes() {
        assert_eq!(for_rest(10, 4096), 4096);
        assert_eq!(for_rest(100_000, 4096), 100_001);
        assert_eq!(for_rest(u64::MAX, 4096), MOST);
        assert_eq!(after(MOST, MOST, 4096), MOST);
        assert_eq!(after(8192, 8192, 4096), 16384);
        assert_eq!(after(8191, 8192, 4096), 8192);
        assert_eq!(after(1400, 8192, 4096), 4096);
        assert_eq!(after(1, 4096, 4096), 4096);
    }

    #[test]
    fn one_room_does_for_one_body_after_the_other() {
        let room = Room::default();
        let read = |buffer: &mut BytesMut| {
            room.reserve(buffer, 100_000);
            assert!(buffer.capacity() - buffer.len() >= 100_000);
            buffer.resize(buffer.len() + 100_000, b'y');
            buffer.split().freeze()
        };
        let mut buffer = BytesMut::from("x");
        let piece = read(&mut buffer);
        assert_eq!((piece[0], piece.len()), (b'x', 100_001));
        let place = piece.as_ptr();
        drop(piece);
        let piece = read(&mut buffer);
        assert_eq!(piece.as_ptr(), place);
        assert_ne!(read(&mut BytesMut::new()).as_ptr(), place, "it is in use");
        drop((buffer, piece));
        assert_eq!(read(&mut BytesMut::new()).as_ptr(), place);
    }
}
