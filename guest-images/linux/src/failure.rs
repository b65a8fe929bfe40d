//! Errors of a request.

use std::io;

use tdxlab_protocol::linux::Failure;

use crate::fatal::text;

/// Adds the operation to an error.
pub(crate) trait Doing<T> {
    /// The same result, with the operation `what` in the error.
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            match error.raw_os_error() {
                Some(errno) => Failure {
                    doing: text(what),
                    errno,
                },
                None => refuse(&format!("{what}: {error}")),
            }
        })
    }
}

/// A failure that no system call is behind.
pub(crate) fn refuse(why: &str) -> Failure {
    Failure {
        doing: text(why),
        errno: 0,
    }
}
