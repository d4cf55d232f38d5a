//! Where telemetry is sent, and how much of it. The standard `OTEL_*` variables take precedence
//! over settings from code or a file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The OTLP transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, usually on port 4317.
    #[default]
    Grpc,
    /// Protobuf over HTTP, usually on port 4318.
    Http,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// The name in `OTEL_EXPORTER_OTLP_PROTOCOL` and in the configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }

    /// The protocol with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// Settings from code. Each one can be overridden by an `OTEL_*` variable; a setting that is not
/// set either way has OpenTelemetry's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The receiver, for example `http://127.0.0.1:4317`. Default: port 4317 (gRPC) or 4318 (HTTP)
    /// on this machine. Overridden by `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// Default: gRPC. Overridden by `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Protocol,
    /// Headers sent with every request, for example for authentication. Overridden by
    /// `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: BTreeMap<String, String>,
    /// The fraction of traces to send, from 0 to 1. Default: all. Overridden by
    /// `OTEL_TRACES_SAMPLER`. Metrics and log records are not sampled.
    pub sampling: Option<f64>,
    /// The interval at which metrics are read and sent. Default: 60 s. Overridden by
    /// `OTEL_METRIC_EXPORT_INTERVAL`.
    pub metric_interval: Option<Duration>,
    /// `service.name`. Default: `ostler`. Overridden by `OTEL_SERVICE_NAME` and
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub service_name: Option<String>,
}

/// The error returned for an invalid setting or variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct SettingsError {
    /// The setting or variable.
    pub key: String,
    /// What is wrong with it, and what is valid.
    pub message: String,
}

impl SettingsError {
    pub(super) fn new(key: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            key: key.into(),
            message: message.to_string(),
        }
    }
}

/// One kind of telemetry, as named in the variables.
#[derive(Debug, Clone, Copy)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    const fn variable(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
            Self::Logs => "v1/logs",
        }
    }
}

/// The destination of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) protocol: Protocol,
    /// `None`: the exporter reads it from the variables, or uses its default.
    pub(super) endpoint: Option<String>,
    /// Empty if a variable sets headers.
    pub(super) headers: BTreeMap<String, String>,
}

/// Reads a variable. An empty one counts as unset (OpenTelemetry, "Environment Variable
/// Specification").
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `OTEL_SDK_DISABLED`.
pub(super) fn is_disabled() -> bool {
    variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

impl Settings {
    /// Whether a variable names a receiver, which switches telemetry on even without settings in
    /// code.
    pub fn receiver_in_environment() -> bool {
        let names = ["", "TRACES_", "METRICS_", "LOGS_"];
        let named = |signal| variable(&format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT")).is_some();
        !is_disabled() && names.into_iter().any(named)
    }

    /// The destination of a signal; `None` if it is switched off, for example with
    /// `OTEL_TRACES_EXPORTER=none`.
    pub(super) fn route(&self, signal: Signal) -> Result<Option<Route>, SettingsError> {
        self.route_by(signal, variable)
    }

    fn route_by(
        &self,
        signal: Signal,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Route>, SettingsError> {
        let exporter = format!("OTEL_{}_EXPORTER", signal.variable());
        match variable(&exporter).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => {
                return Err(SettingsError::new(
                    exporter,
                    format!("unknown exporter {other:?}: expected otlp or none"),
                ));
            }
        }
        let of_signal = |name: &str| format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.variable());
        let general = |name: &str| format!("OTEL_EXPORTER_OTLP_{name}");
        let is_set = |name: &str| variable(&of_signal(name)).or_else(|| variable(&general(name)));
        let protocol = match is_set("PROTOCOL") {
            None => self.protocol,
            Some(name) => Protocol::from_name(&name).ok_or_else(|| {
                SettingsError::new(
                    general("PROTOCOL"),
                    format!("unsupported protocol {name:?}: expected grpc or http/protobuf"),
                )
            })?,
        };
        let named = is_set("ENDPOINT");
        if let Some(endpoint) = named.as_deref().or(self.endpoint.as_deref()) {
            check_endpoint(endpoint).map_err(|error| SettingsError::new("the OTLP endpoint", error))?;
        }
        let endpoint = match (&named, &self.endpoint) {
            (Some(_), _) | (None, None) => None,
            (None, Some(endpoint)) => Some(match protocol {
                Protocol::Grpc => endpoint.clone(),
                // The exporter takes a URL set in code literally, and one in the variable as the
                // base of all paths. This setting is a base, too.
                Protocol::Http => format!("{}/{}", endpoint.trim_end_matches('/'), signal.path()),
            }),
        };
        let headers = match is_set("HEADERS") {
            Some(_) => BTreeMap::new(),
            None => self.headers.clone(),
        };
        Ok(Some(Route {
            protocol,
            endpoint,
            headers,
        }))
    }
}

/// Checks whether this is a valid address of a receiver. TLS is not supported: an `https://`
/// address is refused, because data must not be sent unencrypted to someone who asked for TLS.
///
/// # Errors
///
/// Returns what is wrong with the address, and what is valid.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if endpoint.starts_with("https:") {
        return Err(format!(
            "{endpoint}: TLS is not supported; send to a local collector over http:// and let it forward the data"
        ));
    }
    if !endpoint.starts_with("http://") {
        return Err(format!(
            "invalid receiver address {endpoint:?}: expected, for example, http://127.0.0.1:4317"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(settings: &Settings, variables: &[(&str, &str)]) -> Result<Option<Route>, SettingsError> {
        settings.route_by(Signal::Traces, |name| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_win_over_settings() {
        let settings = Settings {
            endpoint: Some("http://127.0.0.1:4318/".into()),
            protocol: Protocol::Http,
            headers: [("a".to_owned(), "b".to_owned())].into(),
            ..Settings::default()
        };
        let ours = route(&settings, &[]).unwrap().unwrap();
        assert_eq!(ours.endpoint.as_deref(), Some("http://127.0.0.1:4318/v1/traces"));
        assert_eq!((ours.protocol, ours.headers.len()), (Protocol::Http, 1));
        let theirs = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://x:1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "c=d"),
        ];
        let theirs = route(&settings, &theirs).unwrap().unwrap();
        assert_eq!(theirs.endpoint, None);
        assert_eq!((theirs.protocol, theirs.headers.len()), (Protocol::Grpc, 0));
    }

    #[test]
    fn signals_can_be_switched_off_and_unknown_exporters_are_refused() {
        let settings = Settings::default();
        assert_eq!(route(&settings, &[("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://x"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
        ] {
            let error = route(&settings, &[(name, value)]).unwrap_err();
            assert!(error.message.contains(value), "{error}");
        }
    }
}
