//! Numbers that one thread writes and others read.

#![forbid(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Index;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;

/// Only grows. To be changed by its own worker alone: others may only read it.
#[derive(Debug, Default)]
pub struct Counter(AtomicI64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `amount` more.
    pub fn add(&self, amount: u64) {
        // With one writer, a read and a write do, which unlike an atomic addition don't lock the bus.
        self.0.store(self.0.load(Relaxed).wrapping_add(amount.cast_signed()), Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down. To be changed by its own worker alone: others may only read it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.store(self.0.load(Relaxed) - 1, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// A label whose values are known beforehand.
pub trait Label: Copy {
    /// The values, in the order of [`index`](Self::index).
    const VALUES: &'static [&'static str];

    /// This value's place among them.
    fn index(self) -> usize;
}

/// A cell for each value of a label.
#[derive(Debug)]
pub struct Labelled<L, C, const N: usize>([C; N], PhantomData<fn(L)>);

impl<L: Label, C, const N: usize> Labelled<L, C, N> {
    /// The cells, in the order of the label's values.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.0.iter()
    }
}

impl<L: Label, C: Default, const N: usize> Default for Labelled<L, C, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| C::default()), PhantomData)
    }
}

impl<L: Label, C, const N: usize> Index<L> for Labelled<L, C, N> {
    type Output = C;

    fn index(&self, label: L) -> &C {
        &self.0[label.index()]
    }
}

/// Defines an enum that is a label, with the text of each of its values.
macro_rules! labels {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $crate::proxy::metrics::Label for $name {
            const VALUES: &'static [&'static str] = &[$($text,)+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use labels;
