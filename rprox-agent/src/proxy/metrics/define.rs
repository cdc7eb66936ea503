//! Defines a worker's block of metrics, and how to read them all.

#![forbid(unsafe_code)]

use super::histogram::Sum;

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by their length.
    Histogram,
}

/// The labels of a value, each with what it is.
pub type Labels = Vec<(&'static str, String)>;

/// What is said of one set of labels.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Number(i64),
    /// Durations.
    Durations(Sum),
}

/// A number with one label.
#[must_use]
pub fn labelled(label: &'static str, of: impl Into<String>, number: i64) -> (Labels, Value) {
    (vec![(label, of.into())], Value::Number(number))
}

/// A metric, summed over all workers.
#[derive(Debug)]
pub struct Series {
    /// Its name, a counter's without `_total`.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Each value, with its label where it has one.
    pub values: Vec<(Labels, Value)>,
}

/// Defines `Metrics` of lines `counter FIELD = NAME;` or `gauge FIELD = NAME;`, each with its help before it and, where it has
/// a label, `, by LABEL: TYPE` after it; the type is made by [`labels!`](super::cell::labels).
macro_rules! metrics {
    ($(#[doc = $help:literal] $kind:ident $field:ident = $name:literal $(, by $label:ident: $values:ident)?;)+) => {
        /// What one worker counts; only it may write. Aligned so that no two workers' share a cache line, nor a pair of
        /// them, which processors fetch together.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Metrics {
            $(#[doc = $help] pub $field: define::metrics!(@type $kind $($values)?),)+
            /// What it counts of each route.
            pub routes: Family<String, RouteMetrics>,
            /// What it counts of each route whose TLS is passed through.
            pub passthrough: Family<String, PassthroughMetrics>,
            /// What it counts of each endpoint; `None`: of those that are too many to tell apart.
            pub endpoints: Family<Option<SocketAddr>, EndpointMetrics>,
        }

        impl Metrics {
            /// All metrics, each the sum of what the `workers` counted.
            #[must_use]
            pub fn sum(workers: &[Arc<Self>]) -> Vec<Series> {
                vec![$(Series {
                    name: $name,
                    help: $help.trim_ascii(),
                    kind: define::metrics!(@kind $kind),
                    values: define::metrics!(@values workers $field $($label $values)?),
                },)+]
            }
        }
    };
    (@type $kind:ident) => { define::metrics!(@cell $kind) };
    (@type $kind:ident $values:ident) => {
        Labelled<$values, define::metrics!(@cell $kind), { <$values as Label>::VALUES.len() }>
    };
    (@cell counter) => { Counter };
    (@cell gauge) => { Gauge };
    (@kind counter) => { Kind::Counter };
    (@kind gauge) => { Kind::Gauge };
    (@values $workers:ident $field:ident) => {
        vec![(Vec::new(), Value::Number($workers.iter().map(|worker| worker.$field.get()).sum()))]
    };
    (@values $workers:ident $field:ident $label:ident $values:ident) => {
        <$values as Label>::VALUES
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let cells = $workers.iter().filter_map(|worker| worker.$field.iter().nth(index));
                labelled(stringify!($label), *value, cells.map(|cell| cell.get()).sum())
            })
            .collect()
    };
}
pub(crate) use metrics;
