//! Where telemetry goes and how much of it. The standard `OTEL_*` variables win over what is set in code or in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, as a rule on port 4317.
    #[default]
    Grpc,
    /// Protobuf by HTTP, as a rule on port 4318.
    Http,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// Its name in `OTEL_EXPORTER_OTLP_PROTOCOL` and in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }

    /// The protocol of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// What can be set in code; everything at its default is what the `OTEL_*` variables say, and OpenTelemetry's own
/// defaults where they say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The receiver, such as `http://127.0.0.1:4317`. Default: that port (gRPC) or 4318 (HTTP) of this machine. Loses
    /// against `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// Default gRPC. Loses against `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Protocol,
    /// Sent with every request, as for authentication. Lose against `OTEL_EXPORTER_OTLP_HEADERS`.
    pub headers: BTreeMap<String, String>,
    /// Which part of the traces is sent, 0 to 1. Default: all. Loses against `OTEL_TRACES_SAMPLER`. Metrics and log
    /// records are not sampled.
    pub sampling: Option<f64>,
    /// How often metrics are read and sent. Default 60 s. Loses against `OTEL_METRIC_EXPORT_INTERVAL`.
    pub metric_interval: Option<Duration>,
    /// `service.name`. Default `ostler`. Loses against `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.
    pub service_name: Option<String>,
}

/// A setting or a variable can't be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct SettingsError {
    /// Which.
    pub key: String,
    /// What is wrong with it, and what is allowed.
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

/// A kind of telemetry, as the variables name it.
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

/// Where one kind of telemetry goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) protocol: Protocol,
    /// `None`: the exporter reads it from the variables, or has its default.
    pub(super) endpoint: Option<String>,
    /// Empty where a variable has some.
    pub(super) headers: BTreeMap<String, String>,
}

/// A variable that is set; an empty one counts as unset (OpenTelemetry, "Environment Variable Specification").
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `OTEL_SDK_DISABLED`.
pub(super) fn is_disabled() -> bool {
    variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

impl Settings {
    /// Whether a variable names a receiver, so that telemetry is wanted though nothing in code says so.
    pub fn receiver_in_environment() -> bool {
        let names = ["", "TRACES_", "METRICS_", "LOGS_"];
        let named = |signal| variable(&format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT")).is_some();
        !is_disabled() && names.into_iter().any(named)
    }

    /// Where this kind of telemetry goes; `None`: nowhere, by `OTEL_TRACES_EXPORTER=none` and its like.
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
                    format!("there is no exporter {other:?}; otlp and none are known"),
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
                    format!("{name:?} is not spoken; grpc and http/protobuf are"),
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
                // A URL in code is taken as it is, one in the variable is the base of all paths: ours is a base, too.
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

/// Whether this can be the address of a receiver. TLS is not built in, and one who asked for it must not get clear text.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    if endpoint.starts_with("https:") {
        return Err(format!(
            "{endpoint}: TLS is not built in; send to a collector on this machine by http://, and have it send on"
        ));
    }
    if !endpoint.starts_with("http://") {
        return Err(format!(
            "{endpoint:?} is no address of a receiver; one such as http://127.0.0.1:4317 is wanted"
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
    fn a_signal_can_be_switched_off_and_what_is_not_known_is_refused_by_name() {
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
