//! An error of the operating system in a form that can be sent to another process.

use std::io;

use serde::{Deserialize, Serialize};

/// The number of an error; its text counts if it has no number.
#[derive(Debug, Serialize, Deserialize)]
pub struct OsError {
    number: Option<i32>,
    text: String,
}

impl From<io::Error> for OsError {
    fn from(error: io::Error) -> Self {
        Self { number: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<OsError> for io::Error {
    fn from(OsError { number, text }: OsError) -> Self {
        number.map_or_else(|| Self::other(text), Self::from_raw_os_error)
    }
}
