//! What became of each of many batches that came in one call.

use causeway_proto::v1;
use causeway_proto::v1::mutate_answer::{Failed, Result as Answer};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, KeyAndValueRef};
use tonic::{Code, Status};

/// What the names of our trailers begin with.
const OURS: &str = "causeway-";

/// An answer, or what would have been the status of the call, as a message.
pub(crate) fn mutate_answer(result: Result<v1::MutateResponse, Status>) -> v1::MutateAnswer {
    let result = match result {
        Ok(answered) => Answer::Answered(answered),
        Err(status) => {
            let detail = |entry: KeyAndValueRef<'_>| match entry {
                KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with(OURS) => {
                    Some((key.as_str().to_owned(), value.to_str().ok()?.to_owned()))
                }
                _ => None,
            };
            let details = status.metadata().iter().filter_map(detail).collect();
            Answer::Failed(Failed { code: status.code() as i32, message: status.message().to_owned(), details })
        }
    };
    v1::MutateAnswer { result: Some(result) }
}

/// As if the request had come alone.
pub(crate) fn answered(answer: v1::MutateAnswer) -> Result<v1::MutateResponse, Status> {
    match answer.result {
        Some(Answer::Answered(answered)) => Ok(answered),
        Some(Answer::Failed(failed)) => {
            let mut status = Status::new(Code::from_i32(failed.code), failed.message);
            for (name, value) in failed.details.iter().filter(|(name, _)| name.starts_with(OURS)) {
                let name = AsciiMetadataKey::from_bytes(name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, AsciiMetadataValue::try_from(value.as_str())) {
                    status.metadata_mut().insert(name, value);
                }
            }
            Err(status)
        }
        None => Err(Status::unknown("an answer that is neither done nor failed")),
    }
}

#[cfg(test)]
mod tests {
    use causeway_base::{RetryClass, Seq, VolumeId};

    use super::*;
    use crate::error::Error;
    use crate::rpc;

    #[test]
    fn a_failure_among_many_says_what_it_says_alone() {
        let (group, wanted, oldest) = (VolumeId(3), Seq(4), Seq(9));
        for error in [
            Error::NoVolume("x".to_owned()),
            Error::Unknown { group, reason: "lost".to_owned() },
            Error::TooOld { group, wanted, oldest },
        ] {
            let alone = Status::from(error);
            let among = answered(mutate_answer(Err(alone.clone()))).unwrap_err();
            assert_eq!((among.code(), among.message()), (alone.code(), alone.message()));
            assert_eq!(rpc::class_of(&among), rpc::class_of(&alone));
            let details = |status: &Status| {
                let mut all: Vec<String> = status.metadata().iter().map(|entry| format!("{entry:?}")).collect();
                all.sort_unstable();
                all
            };
            assert_eq!(details(&among), details(&alone));
        }
        assert_eq!(rpc::class_of(&answered(v1::MutateAnswer::default()).unwrap_err()), RetryClass::Unknown);
    }
}
