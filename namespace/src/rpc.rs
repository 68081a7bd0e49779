//! What client and server agree on beside the messages: metadata, deadlines, how failures are told.

use std::time::Duration;

use causeway_base::{ClusterId, RetryClass, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_proto::{PROTOCOL_VERSION, metadata};
use causeway_transport::grpc::ConnectFailed;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use crate::content::ContentError;
use crate::error::Error;

/// The header in which gRPC carries a call's deadline.
const TIMEOUT: &str = "grpc-timeout";
/// Longest time that a server works on a call, whatever its deadline.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// What a server leaves of a deadline for its answer to travel, at most; a tenth of shorter ones.
const MARGIN_MAX: Duration = Duration::from_millis(100);

/// The reason of a refusal by a greater line.
const FENCED: &str = "fenced";

/// Sets the metadata that every call carries, and its deadline unless it is a stream.
pub(crate) fn stamp<T>(request: &mut Request<T>, cluster: ClusterId, deadline: Option<Duration>) {
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    put(request.metadata_mut(), metadata::CLUSTER_ID, &cluster.to_string());
    request.metadata_mut().insert(metadata::PROTOCOL, PROTOCOL_VERSION.into());
}

/// Sets a text of plain ASCII; another is left out.
pub(crate) fn put(map: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = AsciiMetadataValue::try_from(value) {
        map.insert(name, value);
    }
}

/// A text, at most 256 characters of it; empty if there is none.
pub(crate) fn text(map: &MetadataMap, name: &str) -> String {
    let value = map.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().chars().take(256).collect()
}

/// How long a server may work on a call, so that its answer is in time; `None` without a readable deadline.
pub(crate) fn work_time(map: &MetadataMap) -> Option<Duration> {
    let limit = parse_timeout(map.get(TIMEOUT)?.to_str().ok()?)?.min(DEADLINE_MAX);
    Some(limit - (limit / 10).min(MARGIN_MAX))
}

/// The value of `grpc-timeout`: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A failure with what the caller may do about it.
pub(crate) fn failure(code: Code, class: RetryClass, reason: &str, message: impl Into<String>) -> Status {
    let mut status = Status::new(code, message);
    put(status.metadata_mut(), metadata::RETRY, class_text(class));
    put(status.metadata_mut(), metadata::REASON, reason);
    status
}

/// A request that breaks a rule.
pub(crate) fn invalid(message: impl ToString) -> Status {
    failure(Code::InvalidArgument, RetryClass::Refused, "invalid", message.to_string())
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoVolume(_) => Code::NotFound,
            Error::Invalid(_) | Error::Content(ContentError::Invalid(_)) => Code::InvalidArgument,
            Error::Content(_) | Error::Root(_) | Error::NotPromoted(_) => Code::FailedPrecondition,
            Error::Overloaded(_) | Error::Full(_) => Code::ResourceExhausted,
            Error::Unknown { .. } => Code::Unknown,
            Error::TooOld { .. } | Error::TooEarly { .. } | Error::TooMuch { .. } => Code::OutOfRange,
            Error::Read(_) => Code::DataLoss,
            _ => Code::Unavailable,
        };
        let mut status = failure(code, error.retry_class(), error.reason(), chain(&error));
        if let Error::Content(ContentError::Missing { chunks }) = &error {
            put(status.metadata_mut(), metadata::MISSING, &chunks.to_string());
        }
        if let Error::TooOld { oldest, .. } | Error::TooEarly { oldest, .. } = &error {
            put(status.metadata_mut(), metadata::OLDEST, &oldest.0.to_string());
        }
        status
    }
}

/// An error with all its sources, for a message that leaves the process.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let own = error.to_string();
    std::iter::successors(error.source(), |error| error.source()).fold(own, |text, source| {
        let source = source.to_string();
        // Transparent layers repeat what they wrap.
        if text.ends_with(&source) { text } else { format!("{text}: {source}") }
    })
}

const fn class_text(class: RetryClass) -> &'static str {
    match class {
        RetryClass::Refused => "refused",
        RetryClass::Transient => "transient",
        RetryClass::Unknown => "unknown",
        RetryClass::Damaged => "damaged",
    }
}

/// The greater line that a peer follows, if that is why it refused.
pub(crate) fn fenced_by(status: &Status) -> Option<Lineage> {
    if text(status.metadata(), metadata::REASON) != FENCED {
        return None;
    }
    text(status.metadata(), metadata::LINEAGE).parse().ok()
}

/// The refusal of a message of a line that has ended.
pub(crate) fn fenced(group: VolumeId, lineage: Lineage) -> Status {
    let message = format!("group {group} was promoted: this node follows line {lineage}, the caller a lesser one");
    let mut status = failure(Code::FailedPrecondition, RetryClass::Refused, FENCED, message);
    put(status.metadata_mut(), metadata::LINEAGE, &lineage.to_string());
    status
}

/// What a failed call says about its effect.
pub(crate) fn class_of(status: &Status) -> RetryClass {
    match text(status.metadata(), metadata::RETRY).as_str() {
        "refused" => return RetryClass::Refused,
        "transient" => return RetryClass::Transient,
        "unknown" => return RetryClass::Unknown,
        "damaged" => return RetryClass::Damaged,
        _ => {}
    }
    // Not from a handler: from the connection, or from the gRPC library of either side.
    if let Some(failed) = connect_failed(status) {
        return match failed {
            ConnectFailed::Unreachable { .. } => RetryClass::Transient,
            // Whom we do not trust, or who does not trust us: no retry changes that, another node may.
            _ => RetryClass::Refused,
        };
    }
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::Unimplemented
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition => RetryClass::Refused,
        Code::ResourceExhausted => RetryClass::Transient,
        Code::DataLoss => RetryClass::Damaged,
        _ => RetryClass::Unknown,
    }
}

/// The connector's error in the chain of sources, if the request never left.
pub(crate) fn connect_failed(status: &Status) -> Option<&ConnectFailed> {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).find_map(|source| source.downcast_ref::<ConnectFailed>())
}

/// The failure for people.
pub(crate) fn message_of(status: &Status) -> String {
    match connect_failed(status) {
        Some(failed) => chain(failed),
        None if status.message().is_empty() => format!("{:?}", status.code()),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_they_are_written() {
        for duration in [Duration::from_millis(1), Duration::from_secs(5), Duration::from_micros(1500)] {
            let mut request = Request::new(());
            stamp(&mut request, ClusterId(1), Some(duration));
            let header = request.metadata().get(TIMEOUT).unwrap().to_str().unwrap().to_owned();
            assert_eq!(parse_timeout(&header), Some(duration), "{header}");
        }
        for text in ["", "S", "1", "-1S", "123456789S", "1x", "1é"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_has_time_to_travel_and_no_call_is_for_ever() {
        let time = |header: &str| {
            let mut map = MetadataMap::new();
            put(&mut map, TIMEOUT, header);
            work_time(&map)
        };
        assert_eq!(time("100m"), Some(Duration::from_millis(90)));
        assert_eq!(time("10S"), Some(Duration::from_millis(9900)));
        assert_eq!(time("99999999H"), Some(DEADLINE_MAX - MARGIN_MAX));
        assert_eq!(work_time(&MetadataMap::new()), None);
    }

    #[test]
    fn what_may_be_done_survives_the_wire() {
        let cases = [
            (Error::NoVolume("x".to_owned()), RetryClass::Refused),
            (Error::Unknown { group: causeway_base::VolumeId(1), reason: "lost".to_owned() }, RetryClass::Unknown),
            (Error::Content(ContentError::Missing { chunks: 3 }), RetryClass::Transient),
            (Error::ShuttingDown, RetryClass::Transient),
        ];
        for (error, class) in cases {
            assert_eq!(error.retry_class(), class);
            assert_eq!(class_of(&Status::from(error)), class);
        }
        assert_eq!(class_of(&Status::cancelled("Timeout expired")), RetryClass::Unknown);
    }
}
