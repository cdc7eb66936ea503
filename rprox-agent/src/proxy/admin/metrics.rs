//! The metrics as text in the format of `OpenMetrics`.

#![forbid(unsafe_code)]

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text as openmetrics,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::families;
use crate::proxy::metrics::{Kind, Metrics, Series, Value};
use crate::proxy::worker::Shared;

/// All metrics as they are now.
///
/// # Errors
///
/// When they can't be written, which has no reason known.
pub(super) fn text(shared: &Shared) -> Result<String, fmt::Error> {
    let rules = shared.rules.load();
    let mut series = Metrics::sum(&shared.metrics);
    series.extend(families::routes(&shared.metrics));
    series.extend(families::passthrough(&shared.metrics));
    series.extend(families::endpoints(&shared.metrics));
    series.extend(shared.last_answers.series(|upstream| rules.routes.leads_to(upstream)));
    series.push(shared.reloads.series());
    series.push(shared.health.series());
    series.extend(shared.memory.series());
    series.extend(shared.labels.series());
    series.push(shared.access_log.series());
    series.push(shared.acme.series());
    series.push(rules.tls.expiry());
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(series)));
    let mut text = String::new();
    openmetrics::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot(Vec<Series>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for series in &self.0 {
            let kind = match series.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(series.name, series.help, None, kind)?;
            for (labels, value) in &series.values {
                write(series.kind, value, metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn write(kind: Kind, value: &Value, mut metric: MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Number(count)) => ConstCounter::new(count.cast_unsigned()).encode(metric),
        (_, Value::Number(number)) => ConstGauge::new(*number).encode(metric),
        (_, Value::Durations(sum)) => {
            metric.encode_histogram::<NoLabelSet>(sum.seconds(), sum.count(), &sum.buckets(), None)
        }
    }
}
