//! Doors for the fuzz targets (`fuzz/`): readers of bytes from outside that only their own rooms call.

use std::io::Read;

use akene_protocol::lock::{MAIN, Release};
use reqwest::blocking::Client;

use crate::fetch::{Address, Opened, open};

/// What a lock says of a release file, which apt has verified, and of whose signatures it carries.
pub fn described(bytes: &[u8]) -> Release {
    crate::release::describe(bytes, MAIN.to_owned(), "http://a.example.org/debian", "stable")
}

/// What was made of a server's answer to a question for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Bytes: from which byte of the file on, how many came of at most `most`, and how many it promised.
    Bytes {
        /// Where they begin.
        from: u64,
        /// How many came.
        came: u64,
        /// How many were promised.
        length: Option<u64>,
    },
    /// It has the file in no way.
    Absent,
    /// It does not work now, or nobody answers.
    Broken,
    /// Somebody on the way answers.
    Between,
    /// It does not know the range.
    NoSuchRange,
}

/// Asks an address for a file from byte `have` on, and reads at most `most` bytes of the answer.
pub fn answered(url: &str, client: &Client, have: u64, most: u64) -> Answered {
    let address = Address::Http { url: url.to_owned(), client: None, authorization: None };
    match open(&address, client, have) {
        Opened::Stream { reader, from, length, .. } => {
            let mut came = 0;
            let mut reader = reader.take(most);
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                came += n as u64;
            }
            Answered::Bytes { from, came, length }
        }
        Opened::Absent(_) | Opened::Refused(_) => Answered::Absent,
        Opened::Broken(..) | Opened::Silent(_) => Answered::Broken,
        Opened::Between(_) => Answered::Between,
        Opened::NoSuchRange(_) => Answered::NoSuchRange,
    }
}
