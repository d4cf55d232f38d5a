//! Calls that have no answer, as responses (RFC 9457).

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Bytes;
use ostler_core::chain::chain;
use serde_json::{Value, json};

use super::Answer;
use crate::outcome::{CallError, Lost, Refused, Unknown};

/// The text of a problem.
#[derive(Debug)]
pub struct ProblemBody(Option<Bytes>);

impl ProblemBody {
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.0.take()
    }

    pub(super) fn is_taken(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |text| text.len() as u64)
    }
}

/// 503: refused, certainly not sent. 504: sent, and no answer within the deadline. 502: sent, and
/// lost.
pub(super) fn response(error: &CallError) -> Response<Answer> {
    let (status, problem) = match error {
        CallError::Refused(refused) => (StatusCode::SERVICE_UNAVAILABLE, of_refused(refused)),
        CallError::Unknown(unknown) => {
            let late = matches!(unknown.cause, Lost::Deadline { .. });
            let status = if late {
                StatusCode::GATEWAY_TIMEOUT
            } else {
                StatusCode::BAD_GATEWAY
            };
            (status, of_unknown(unknown))
        }
    };
    let text = Bytes::from(problem.to_string());
    let mut response = Response::new(Answer::problem(ProblemBody(Some(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let CallError::Refused(Refused::BreakerOpen { retry_after }) = error {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
    }
    response
}

fn of_refused(refused: &Refused) -> Value {
    json!({"title": "the call was not sent", "status": 503, "detail": chain(refused), "outcome": "refused",
           "reason": refused.name()})
}

fn of_unknown(unknown: &Unknown) -> Value {
    let status = if matches!(unknown.cause, Lost::Deadline { .. }) {
        504
    } else {
        502
    };
    let failure = unknown.failure.as_ref();
    json!({
        "title": "the call was sent, and its outcome is unknown", "status": status, "detail": chain(unknown),
        "outcome": "unknown", "reason": unknown.name(), "worker": unknown.worker.to_string(),
        "failure": failure.map(|failure| failure.reason.name()),
        "stderr": failure.map_or(&[][..], |failure| &failure.stderr_tail),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_detail_has_the_causes() {
        let problem = of_refused(&Refused::invalid("the body has no length"));
        assert_eq!(problem["detail"], "the request can't be sent: the body has no length");
    }
}
