//! Why a request could not be done.

use std::io;

use tdxlab_protocol::linux::Failure;

use crate::fatal::text;

/// Names what was tried when it failed.
pub(crate) trait Doing<T> {
    /// The same result, with an error that says what was tried.
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
