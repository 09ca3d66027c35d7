//! A small HTTP/1.1 file server on loopback, with faults to order.
//!
//! It knows what apt and a resuming downloader use (keep-alive, pipelining, `HEAD`, `Range`) and
//! nothing else. What a path means is the business of its [`Handler`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What a request is answered with.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The content of a file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// 404.
    Missing,
    /// 502 with this text.
    Broken(String),
    /// Half of these bytes, and then nothing more for a minute.
    Half(Vec<u8>),
    /// The head says more than these bytes, or less: that much.
    Claims(Vec<u8>, i64),
    /// At most so many of these bytes, and the connection is reset.
    Cut(Vec<u8>, usize),
    /// One byte of these a second.
    Drip(Vec<u8>),
    /// 302 to another address.
    Elsewhere(String),
    /// A page for people.
    Page(&'static str),
}

/// Finds the answer for a path, which begins with `/`.
pub type Handler = dyn Fn(&str) -> Answer + Send + Sync;

/// A fault to serve instead of the real answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// As if the file were not there.
    Missing,
    /// Other bytes.
    Bytes(Vec<u8>),
    /// The real bytes, the last one changed: same size, other hash.
    Flipped,
    /// Half of the real bytes, and then nothing more for a minute.
    Stalls,
    /// The first half of the real bytes, as if that were all.
    Truncated,
    /// The real bytes, with a `Content-Length` that is so much larger or smaller.
    Claims(i64),
    /// At most so many bytes of the real answer at a time, then the connection is reset.
    Cuts(usize),
    /// One byte a second.
    Drips,
    /// Redirects to itself.
    Loops,
    /// Redirects to a page where somebody is to sign in, `/login.html`.
    Portal,
    /// With the first such request a portal comes up, for whatever is asked for: [`Fault::Portal`] from then on.
    PortalBegins,
    /// The real answer, after this time, or when there is no fault any more.
    Late(Duration),
    /// This one for the first request, and then the real answers.
    Once(Box<Fault>),
}

struct Shared {
    handler: Box<Handler>,
    faults: Mutex<BTreeMap<String, Fault>>,
    served: Mutex<Vec<String>>,
    closing: AtomicBool,
}

/// Where a portal wants people to sign in.
const LOGIN: &str = "/login.html";

/// A running server. Dropping it closes its port.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens on a free port of the loopback interface.
    pub fn start(handler: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("opening a port on loopback")?;
        Self::on(listener, handler)
    }

    /// Answers who connects to this listener, which may be in another network namespace.
    pub fn on(
        listener: TcpListener,
        handler: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = listener.local_addr().context("reading the port's number")?;
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            faults: Mutex::default(),
            served: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let ours = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ours.closing.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), shared) = (stream, ours.clone()) else { continue };
                // A client that goes away in the middle is no business of the others.
                thread::spawn(move || converse(&stream, &shared).is_ok());
            }
        });
        Ok(Server { address, shared })
    }

    /// Port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://ADDRESS:PORT`, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, requests whose path ends with `suffix` get the fault.
    pub fn fault(&self, suffix: &str, fault: Fault) {
        lock(&self.shared.faults).insert(suffix.to_owned(), fault);
    }

    /// No more faults.
    pub fn mend(&self) {
        lock(&self.shared.faults).clear();
    }

    /// The paths asked for since the last call, in order.
    pub fn take_served(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared.served))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the listener up so that it sees the flag; it may be gone already, or in another network.
        TcpStream::connect_timeout(&self.address, Duration::from_millis(200)).ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests on one connection, in order, until the client has had enough.
fn converse(stream: &TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        // Whoever takes this server for its proxy names the server it means, too.
        let target =
            target.strip_prefix("http://").map_or(target, |of| of.find('/').map_or("/", |at| &of[at..]));
        let (method, path) = (method.to_owned(), unescape(target.split('?').next().unwrap_or("/")));
        let mut range = None;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = value
                    .trim()
                    .strip_prefix("bytes=")
                    .and_then(|r| r.split_once('-'))
                    .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok())));
            }
        }
        lock(&shared.served).push(path.clone());
        let answer =
            if method == "GET" || method == "HEAD" { answer(shared, &path) } else { Answer::Missing };
        send(stream, answer, range, method == "HEAD")?;
    }
}

/// The fault to serve a request for this path.
fn fault(shared: &Shared, path: &str) -> Option<Fault> {
    let mut faults = lock(&shared.faults);
    let (end, fault) = faults.iter().find(|(end, _)| path.ends_with(end.as_str()))?;
    match (end.clone(), fault.clone()) {
        (end, Fault::Once(fault)) => {
            faults.remove(&end);
            Some(*fault)
        }
        (_, Fault::PortalBegins) => {
            faults.insert(String::new(), Fault::Portal);
            Some(Fault::Portal)
        }
        (_, fault) => Some(fault),
    }
}

fn answer(shared: &Shared, path: &str) -> Answer {
    match fault(shared, path) {
        None => (shared.handler)(path),
        Some(Fault::Missing) => Answer::Missing,
        Some(Fault::Bytes(bytes)) => Answer::Bytes(bytes),
        Some(Fault::Late(pause)) => {
            let begun = Instant::now();
            while begun.elapsed() < pause && !lock(&shared.faults).is_empty() {
                thread::sleep(Duration::from_millis(50));
            }
            (shared.handler)(path)
        }
        Some(Fault::Portal) if path == LOGIN => Answer::Page("<!DOCTYPE html><title>Sign in</title>"),
        Some(Fault::Portal) => Answer::Elsewhere(format!("{LOGIN}?from=a-long-way")),
        Some(Fault::Loops) => Answer::Elsewhere(path.to_owned()),
        Some(fault) => {
            let mut bytes = match (shared.handler)(path) {
                Answer::File(file) => match std::fs::read(&file) {
                    Ok(bytes) => bytes,
                    Err(error) => return Answer::Broken(format!("reading {}: {error}", file.display())),
                },
                Answer::Bytes(bytes) => bytes,
                other => return other,
            };
            match fault {
                Fault::Stalls => return Answer::Half(bytes),
                Fault::Truncated => bytes.truncate(bytes.len() / 2),
                Fault::Claims(more) => return Answer::Claims(bytes, more),
                Fault::Cuts(most) => return Answer::Cut(bytes, most),
                Fault::Drips => return Answer::Drip(bytes),
                _ => {
                    if let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                }
            }
            Answer::Bytes(bytes)
        }
    }
}

fn send(mut stream: &TcpStream, answer: Answer, range: Option<(u64, Option<u64>)>, head: bool) -> Result<()> {
    let (mut claims, mut most, mut drips) = (0, usize::MAX, false);
    let answer = match answer {
        Answer::Claims(bytes, more) => {
            claims = more;
            Answer::Bytes(bytes)
        }
        Answer::Cut(bytes, at_most) => {
            most = at_most;
            Answer::Bytes(bytes)
        }
        Answer::Drip(bytes) => {
            drips = true;
            Answer::Bytes(bytes)
        }
        other => other,
    };
    let (mut body, size): (Box<dyn ReadSeek>, u64) = match answer {
        Answer::File(path) => {
            let file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            let size = file.metadata()?.len();
            (Box::new(file), size)
        }
        Answer::Bytes(bytes) => {
            let size = bytes.len() as u64;
            (Box::new(std::io::Cursor::new(bytes)), size)
        }
        Answer::Missing => return Ok(refuse(stream, "404 Not Found", "there is no such file\n")?),
        Answer::Broken(why) => return Ok(refuse(stream, "502 Bad Gateway", &why)?),
        Answer::Half(bytes) => {
            stream.write_all(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()).as_bytes(),
            )?;
            stream.write_all(&bytes[..bytes.len() / 2])?;
            thread::sleep(Duration::from_secs(60));
            anyhow::bail!("nothing more comes")
        }
        Answer::Elsewhere(to) => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            return Ok(stream.write_all(head.as_bytes())?);
        }
        Answer::Page(text) => {
            let fields = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length";
            let body = if head { "" } else { text };
            return Ok(stream.write_all(format!("{fields}: {}\r\n\r\n{body}", text.len()).as_bytes())?);
        }
        Answer::Claims(..) | Answer::Cut(..) | Answer::Drip(_) => anyhow::bail!("these were taken apart"),
    };
    let (status, from, to) = match range {
        Some((from, _)) if from >= size => {
            return Ok(refuse(stream, "416 Range Not Satisfiable", "the file ends before that\n")?);
        }
        Some((from, to)) => ("206 Partial Content", from, to.map_or(size, |to| (to + 1).min(size))),
        None => ("200 OK", 0, size),
    };
    let mut header = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nAccept-Ranges: bytes\r\n",
        (to - from).saturating_add_signed(claims)
    );
    if range.is_some() {
        header.push_str(&format!("Content-Range: bytes {from}-{}/{size}\r\n", to - 1));
    }
    stream.write_all(format!("{header}\r\n").as_bytes())?;
    if !head {
        body.seek(SeekFrom::Start(from))?;
        let mut body = body.take((to - from).min(most as u64));
        if drips {
            let mut byte = [0];
            while body.read(&mut byte)? == 1 {
                stream.write_all(&byte)?;
                thread::sleep(Duration::from_secs(1));
            }
            return Ok(());
        }
        std::io::copy(&mut body, &mut stream)?;
        anyhow::ensure!(to - from <= most as u64 && claims == 0, "the line is cut");
    }
    Ok(())
}

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

fn refuse(mut stream: &TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes())
}

/// `%7E` to `~`. What is not a whole escape stays as it is.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex =
            text.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(*byte));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(server: &Server, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    fn sample() -> Server {
        Server::start(|path| match path {
            "/a~b" => Answer::Bytes(b"0123456789".to_vec()),
            _ => Answer::Missing,
        })
        .unwrap()
    }

    #[test]
    fn serves_pipelined_requests_and_ranges() {
        let server = sample();
        let text = get(
            &server,
            "GET /a%7eb HTTP/1.1\r\n\r\nGET /a~b HTTP/1.1\r\nRange: bytes=7-\r\n\r\nGET /c HTTP/1.1\r\n\r\n",
        );
        assert!(text.contains("\r\n\r\n0123456789HTTP/1.1 206"), "{text}");
        assert!(text.contains("Content-Range: bytes 7-9/10\r\n\r\n789HTTP/1.1 404"), "{text}");
        assert_eq!(server.take_served(), ["/a~b", "/a~b", "/c"]);
    }

    #[test]
    fn is_its_own_proxy() {
        let text = get(&sample(), "GET http://192.0.2.2:81/a~b?c HTTP/1.1\r\n\r\n");
        assert!(text.ends_with("0123456789"), "{text}");
    }

    #[test]
    fn serves_faults_until_mended() {
        let server = sample();
        server.fault("~b", Fault::Flipped);
        assert!(get(&server, "GET /a~b HTTP/1.1\r\n\r\n").ends_with("0123456788"));
        server.fault("~b", Fault::Missing);
        assert!(get(&server, "GET /a~b HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        server.mend();
        assert!(get(&server, "GET /a~b HTTP/1.1\r\n\r\n").ends_with("0123456789"));
        server.fault("~b", Fault::Once(Box::new(Fault::Flipped)));
        let both = get(&server, "GET /a~b HTTP/1.1\r\n\r\nGET /a~b HTTP/1.1\r\n\r\n");
        assert!(both.contains("0123456788HTTP") && both.ends_with("0123456789"), "{both}");
        server.fault("/c", Fault::PortalBegins);
        let all = get(&server, "GET /a~b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\nGET /a~b HTTP/1.1\r\n\r\n");
        assert!(all.contains("0123456789HTTP/1.1 302") && all.matches("302 Found").count() == 2, "{all}");
    }
}
