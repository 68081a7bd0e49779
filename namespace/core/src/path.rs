//! The rules for names and paths.

use bytes::Bytes;

use crate::command::Errno;
use crate::inode::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// The names of a path, first to last; empty and `.` components are skipped.
///
/// # Errors
/// [`Errno::NameTooLong`]; [`Errno::Invalid`] for `..` or a NUL anywhere.
pub fn names(path: &Bytes) -> Result<Vec<Bytes>, Errno> {
    let mut names = Vec::new();
    components(path, |name| names.push(path.slice_ref(name)))?;
    Ok(names)
}

/// Calls `each` with every name of a path, as [`names`] does; what was seen before an error counts for nothing.
pub(crate) fn components<'a>(path: &'a [u8], mut each: impl FnMut(&'a [u8])) -> Result<(), Errno> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Errno::NameTooLong);
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Errno::Invalid),
            _ if name.len() > NAME_BYTES_MAX => return Err(Errno::NameTooLong),
            _ if name.contains(&0) => return Err(Errno::Invalid),
            _ => each(name),
        }
    }
    Ok(())
}

/// Checks a single name: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
///
/// # Errors
/// [`Errno::NameTooLong`], [`Errno::Invalid`].
pub fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Errno::NameTooLong);
    }
    let allowed = !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if allowed { Ok(()) } else { Err(Errno::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &[u8]) -> Result<Vec<Bytes>, Errno> {
        names(&Bytes::copy_from_slice(path))
    }

    #[test]
    fn a_path_is_its_names() {
        assert_eq!(split(b"/a//./b/\xff\xfe/"), Ok(vec!["a".into(), "b".into(), Bytes::from_static(b"\xff\xfe")]));
        assert_eq!(split(b""), Ok(vec![]));
        assert_eq!(split(b"/"), Ok(vec![]));
        assert_eq!(split(b"a/../b"), Err(Errno::Invalid));
        assert_eq!(split(b"a/\0"), Err(Errno::Invalid));
        assert_eq!(split(b"...").map(|names| names.len()), Ok(1));
    }

    #[test]
    fn lengths_are_bounded_inclusively() {
        assert!(split(&[b'x'; 255]).is_ok());
        assert_eq!(split(&[b'x'; 256]), Err(Errno::NameTooLong));
        assert!(split(&b"ab/".repeat(1366)[..4096]).is_ok());
        assert_eq!(split(&b"ab/".repeat(1366)[..4097]), Err(Errno::NameTooLong));
        assert!(check_name(&[b'x'; 255]).is_ok());
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(check_name(name), Err(Errno::Invalid));
        }
    }
}
