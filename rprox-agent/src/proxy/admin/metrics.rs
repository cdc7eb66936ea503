//! The metrics as text in the format of `OpenMetrics`.

#![forbid(unsafe_code)]

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text as openmetrics};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::proxy::metrics::{Kind, Metrics, Series};
use crate::proxy::worker::Shared;

/// All metrics as they are now.
///
/// # Errors
///
/// When they can't be written, which has no reason known.
pub(super) fn text(shared: &Shared) -> Result<String, fmt::Error> {
    let mut series = Metrics::sum(&shared.metrics);
    series.push(shared.reloads.series());
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(series)));
    let mut text = String::new();
    openmetrics::encode(&mut text, &registry)?;
    Ok(text)
}

/// The labels of what has none.
const NONE: [(&str, &str); 0] = [];

#[derive(Debug)]
struct Snapshot(Vec<Series>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for series in &self.0 {
            let kind = match series.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(series.name, series.help, None, kind)?;
            for (label, value) in &series.values {
                match label {
                    Some(label) => write(series.kind, *value, metric.encode_family(&[*label])?)?,
                    None => write(series.kind, *value, metric.encode_family(&NONE)?)?,
                }
            }
        }
        Ok(())
    }
}

fn write(kind: Kind, value: i64, metric: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value.cast_unsigned()).encode(metric),
        Kind::Gauge => ConstGauge::new(value).encode(metric),
    }
}
