//! What a server answers when it is asked for a package.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use akene_archive::fuzz::{Answered, answered};
use akene_archive::redirect_policy;
use reqwest::blocking::Client;

/// Most bytes of a file that are read.
const MOST: u64 = 64 << 10;

/// From this byte on, where a range is asked for.
const HAVE: u64 = 1000;

thread_local! {
    static LINE: Line = Line::new();
}

/// A server that answers every request with the input, and a client that reaches nobody else.
struct Line {
    says: Arc<Mutex<Vec<u8>>>,
    client: Client,
}

impl Line {
    fn new() -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let says: Arc<Mutex<Vec<u8>>> = Arc::default();
        let ours = says.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let text = ours.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A client that has had enough goes away.
                answer(stream, &text).ok();
            }
        });
        // Another target of this program may have installed it already.
        rustls::crypto::ring::default_provider().install_default().ok();
        // Whatever address a redirect names, it is this server that is asked.
        let client = Client::builder()
            .redirect(redirect_policy())
            .proxy(reqwest::Proxy::all(proxy).unwrap())
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(10))
            .tls_certs_only([])
            .build();
        Line { says, client: client.unwrap() }
    }
}

fn answer(mut stream: TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut head, mut byte) = (Vec::new(), [0; 512]);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut byte)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&byte[..n]),
        }
    }
    stream.write_all(text)?;
    stream.shutdown(Shutdown::Write)
}

/// An answer, to a question for a whole file and to one for the rest of it.
pub fn answers(data: &[u8]) {
    LINE.with(|line| {
        *line.says.lock().unwrap_or_else(PoisonError::into_inner) = data.to_vec();
        for have in [0, HAVE] {
            let Answered::Bytes { from, came, length } =
                answered("http://mirror.invalid/p.deb", &line.client, have, MOST)
            else {
                continue;
            };
            assert!(from == 0 || from == have, "asked from {have} on, it is said to begin at {from}");
            assert!(came <= MOST && length.is_none_or(|length| came <= length), "{came} of {length:?}");
            assert!(came <= data.len() as u64, "{came} bytes came of {}", data.len());
        }
    });
}
