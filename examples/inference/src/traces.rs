//! Traces to a collector, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one.

use ostler::otlp::{FLUSH_LIMIT, Protocol, Settings, SettingsError, Telemetry};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to export; `None`: no collector is named. Workers export by themselves.
pub(crate) fn start() -> Result<Option<Telemetry>, SettingsError> {
    if !Settings::receiver_in_environment() {
        return Ok(None);
    }
    let settings = Settings {
        // The exporter of the Python workers speaks HTTP, and the endpoint is the same.
        protocol: Protocol::Http,
        service_name: Some("inference".to_owned()),
        ..Settings::default()
    };
    let telemetry = Telemetry::start(&settings)?;
    let layer = telemetry.as_ref().map(Telemetry::layer);
    tracing_subscriber::registry().with(layer).init();
    Ok(telemetry)
}

/// Sends what is left.
pub(crate) async fn finish(telemetry: Option<Telemetry>) {
    if let Some(telemetry) = telemetry {
        let flush = tokio::task::spawn_blocking(move || telemetry.shutdown(FLUSH_LIMIT));
        match flush.await {
            Ok(lost) if !lost.is_empty() => eprintln!("traces that were not delivered: {lost}"),
            _ => {}
        }
    }
}
