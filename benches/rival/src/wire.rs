//! The bytes: WebSocket frames, the payload every peer carries, addresses.

use memchr::memmem;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Masked client frames, with the all-zero mask key: valid, and costs the client nothing.
#[derive(Default)]
pub struct Frames(pub Vec<u8>);

impl Frames {
    pub fn frame(&mut self, op: u8, data: &[u8]) {
        let o = &mut self.0;
        o.push(0x80 | op);
        match data.len() {
            n if n < 126 => o.push(0x80 | n as u8),
            n if n < 65536 => {
                o.push(0x80 | 126);
                o.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                o.push(0x80 | 127);
                o.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        o.extend_from_slice(&[0; 4]);
        o.extend_from_slice(data);
    }
    pub fn text(&mut self, s: &str) {
        self.frame(TEXT, s.as_bytes())
    }
}

/// One frame at the start of `b`: (opcode, payload start, frame end), or None while incomplete.
/// Servers do not mask, so the payload is `b[start..end]`.
pub fn parse_frame(b: &[u8]) -> Option<(u8, usize, usize)> {
    if b.len() < 2 {
        return None;
    }
    let (h, n) = match b[1] & 127 {
        126 if b.len() >= 4 => (4, u16::from_be_bytes([b[2], b[3]]) as usize),
        127 if b.len() >= 10 => (10, u64::from_be_bytes(b[2..10].try_into().unwrap()) as usize),
        126 | 127 => return None,
        n => (2, n as usize),
    };
    let h = h + if b[1] & 128 != 0 { 4 } else { 0 };
    if b.len() < h + n {
        return None;
    }
    Some((b[0] & 15, h, h + n))
}

pub const ALL: u32 = u32::MAX;
pub const MARK: &[u8] = b"@RV";
pub const HEAD: usize = 3 + 8 + 8 + 16 + 8 + 1;

/// What every peer carries as the message body: 44 characters of header, then filler.
/// Only letters, digits and '@', so it survives JSON, STOMP and URL quoting unchanged.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    pub run: u32,
    pub seq: u32,
    pub sent: u64,
    pub to: u32,
}

pub fn body(s: Stamp, size: usize) -> String {
    let mut b = format!("@RV{:08x}{:08x}{:016x}{:08x}@", s.run, s.seq, s.sent, s.to);
    while b.len() < size {
        b.push('x');
    }
    b
}

fn hex(b: &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for c in b {
        v = v << 4 | (*c as char).to_digit(16)? as u64;
    }
    Some(v)
}

/// The next stamp in `d` from `at`, with the place to go on from.
pub fn find_stamp(d: &[u8], at: usize, f: &memmem::Finder) -> Option<(Stamp, usize)> {
    let p = at + f.find(d.get(at..)?)?;
    let h = d.get(p..p + HEAD)?;
    Some((
        Stamp {
            run: hex(&h[3..11])? as u32,
            seq: hex(&h[11..19])? as u32,
            sent: hex(&h[19..35])?,
            to: hex(&h[35..43])? as u32,
        },
        p + HEAD,
    ))
}

pub fn now() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

pub fn wall() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[derive(Clone, Copy, Debug)]
pub struct Addr {
    pub ip: [u8; 4],
    pub port: u16,
}

impl Addr {
    pub fn parse(s: &str) -> Addr {
        let a: std::net::SocketAddrV4 = s.trim().parse().unwrap_or_else(|e| panic!("address {s}: {e}"));
        Addr { ip: a.ip().octets(), port: a.port() }
    }
    pub fn text(&self) -> String {
        format!("{}.{}.{}.{}:{}", self.ip[0], self.ip[1], self.ip[2], self.ip[3], self.port)
    }
}

fn sockaddr(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
    let mut s: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    s.sin_family = libc::AF_INET as u16;
    s.sin_port = port.to_be();
    s.sin_addr.s_addr = u32::from_ne_bytes(ip);
    s
}

/// A non-blocking connection under way from source address `src`; -1 when it failed at once.
pub fn connect(a: Addr, src: Option<[u8; 4]>, rcvbuf: i32) -> i32 {
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return -1;
        }
        let one: i32 = 1;
        let p = &one as *const i32 as *const libc::c_void;
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, p, 4);
        if rcvbuf > 0 {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &rcvbuf as *const i32 as *const libc::c_void, 4);
        }
        if let Some(ip) = src {
            libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, p, 4);
            let s = sockaddr(ip, 0);
            if libc::bind(fd, &s as *const _ as *const libc::sockaddr, 16) != 0 {
                libc::close(fd);
                return -1;
            }
        }
        let s = sockaddr(a.ip, a.port);
        let r = libc::connect(fd, &s as *const _ as *const libc::sockaddr, 16);
        if r != 0 && *libc::__errno_location() != libc::EINPROGRESS {
            libc::close(fd);
            return -1;
        }
        fd
    }
}

pub struct Epoll(pub i32);

impl Epoll {
    pub fn new() -> Epoll {
        Epoll(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
    }
    pub fn ctl(&self, op: i32, fd: i32, events: i32, data: u64) {
        let mut e = libc::epoll_event { events: events as u32, u64: data };
        unsafe { libc::epoll_ctl(self.0, op, fd, &mut e) };
    }
    /// Waits at most `ns`.
    pub fn wait<'a>(&self, buf: &'a mut Vec<libc::epoll_event>, ns: u64) -> &'a [libc::epoll_event] {
        let t = libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
        let n = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0,
                buf.as_mut_ptr(),
                buf.capacity() as i32,
                &t as *const libc::timespec,
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        unsafe { buf.set_len(n.max(0) as usize) };
        &buf[..]
    }
}

/// Upgrade request for a WebSocket.
pub fn upgrade(a: Addr, path: &str, subprotocol: Option<&str>, extra: &str) -> Vec<u8> {
    let sub = subprotocol.map(|s| format!("Sec-WebSocket-Protocol: {s}\r\n")).unwrap_or_default();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{sub}{extra}\r\n",
        a.text()
    )
    .into_bytes()
}

pub fn http_post(a: Addr, path: &str, content_type: &str, extra: &str, body: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(
        format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\n{extra}Content-Length: {}\r\n\r\n",
            a.text(),
            body.len()
        )
        .as_bytes(),
    );
    out.extend_from_slice(body.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_round_trip() {
        let f = memmem::Finder::new(MARK);
        let s = Stamp { run: 7, seq: 9, sent: 123456789012, to: ALL };
        let text = format!("42[\"m\",\"{}\"]{}", body(s, 200), body(s, 60));
        let (a, p) = find_stamp(text.as_bytes(), 0, &f).unwrap();
        assert_eq!((a.run, a.seq, a.sent, a.to), (7, 9, 123456789012, ALL));
        let (b, p) = find_stamp(text.as_bytes(), p, &f).unwrap();
        assert_eq!(b.seq, 9);
        assert!(find_stamp(text.as_bytes(), p, &f).is_none());
    }

    #[test]
    fn frames() {
        for n in [0, 125, 126, 65535, 65536] {
            let mut f = Frames::default();
            f.frame(TEXT, &vec![5; n]);
            let (op, s, e) = parse_frame(&f.0).unwrap();
            assert_eq!((op, e - s, e), (TEXT, n, f.0.len()));
            assert!(parse_frame(&f.0[..f.0.len() - 1]).is_none() || n == 0);
        }
    }
}
