//! How much of a body to read at a time: all that there may be, so that calls into the kernel don't count, and no more.

#![forbid(unsafe_code)]

/// As much as is read at a time.
const MOST: usize = 128 * 1024;

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
}
