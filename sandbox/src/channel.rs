//! Framed messages with descriptors over a `SOCK_SEQPACKET` socket.
//!
//! The other side is treated as hostile: a frame has a size cap, a bulk message comes in a sealed
//! memory file with a cap of its own, and anything malformed is an error, never a guess.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// Largest frame on the socket, bytes. A larger message travels in a memory file.
pub const FRAME_LIMIT: usize = 64 * 1024;
/// Largest message in a memory file, bytes.
pub const BULK_LIMIT: usize = 64 * 1024 * 1024;
/// Most descriptors in one message.
pub const DESCRIPTOR_LIMIT: usize = 8;

const INLINE: u8 = 0;
const BULK: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the other side has closed the channel")]
    Closed,
    #[error("no message is waiting")]
    WouldBlock,
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    #[error("message of {0} bytes is too large")]
    TooLarge(usize),
    #[error(transparent)]
    Os(#[from] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> ChannelError {
        match errno {
            Errno::EAGAIN => ChannelError::WouldBlock,
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => ChannelError::Closed,
            errno => ChannelError::Os(errno.into()),
        }
    }
}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// Kept between messages: a fresh one would cost more than the message.
    buffer: Mutex<Vec<u8>>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.socket
    }
}

impl Channel {
    /// Two connected ends, both closed on exec.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel::from_socket(one), Channel::from_socket(other)))
    }

    /// Takes over a socket that was made by [`Channel::pair`] in another process.
    pub fn from_socket(socket: OwnedFd) -> Channel {
        Channel { socket, buffer: Mutex::new(Vec::new()) }
    }

    /// Sends one message with copies of `descriptors`. Blocks while the other side's queue is full.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd],
    ) -> Result<(), ChannelError> {
        let mut frame = vec![INLINE];
        frame = postcard::to_extend(message, frame)
            .map_err(|_| ChannelError::Malformed("it cannot be encoded"))?;
        let mut fds: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let bulk;
        if frame.len() > FRAME_LIMIT {
            bulk = sealed_memory(&frame[1..])?;
            fds.insert(0, bulk.as_raw_fd());
            frame = vec![BULK];
        }
        if fds.len() > DESCRIPTOR_LIMIT {
            return Err(ChannelError::Malformed("it has too many descriptors"));
        }
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let parts = [IoSlice::new(&frame)];
        sendmsg::<()>(self.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits for one message.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        self.receive(MsgFlags::empty())
    }

    /// Takes one message if there is one, [`ChannelError::WouldBlock`] otherwise.
    pub fn try_recv<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    fn receive<T: DeserializeOwned>(
        &self,
        flags: MsgFlags,
    ) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut frame = self.take_buffer();
        let mut control = nix::cmsg_space!([i32; DESCRIPTOR_LIMIT]);
        let (length, truncated, raw) = loop {
            let mut parts = [IoSliceMut::new(&mut frame)];
            let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(message) => {
                    let raw: Vec<i32> = message
                        .cmsgs()?
                        .filter_map(|part| match part {
                            ControlMessageOwned::ScmRights(fds) => Some(fds),
                            _ => None,
                        })
                        .flatten()
                        .collect();
                    let lost = MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC;
                    break (message.bytes, message.flags.intersects(lost), raw);
                }
            }
        };
        let mut descriptors = sys::adopt(raw);
        if truncated {
            return Err(ChannelError::Malformed("it was cut"));
        }
        let Some((kind, body)) = frame[..length].split_first() else {
            return Err(ChannelError::Closed);
        };
        let message = match *kind {
            INLINE => decode(body)?,
            BULK if body.is_empty() && !descriptors.is_empty() => {
                decode(&read_memory(descriptors.remove(0))?)?
            }
            _ => return Err(ChannelError::Malformed("it is of an unknown kind")),
        };
        if let Ok(mut buffer) = self.buffer.lock() {
            *buffer = frame;
        }
        Ok((message, descriptors))
    }

    fn take_buffer(&self) -> Vec<u8> {
        let mut buffer = match self.buffer.lock() {
            Ok(mut kept) => std::mem::take(&mut *kept),
            Err(_) => Vec::new(),
        };
        buffer.resize(FRAME_LIMIT, 0);
        buffer
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ChannelError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(ChannelError::Malformed("it has trailing bytes")),
        Err(_) => Err(ChannelError::Malformed("it cannot be decoded")),
    }
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL
}

fn sealed_memory(body: &[u8]) -> Result<OwnedFd, ChannelError> {
    if body.len() > BULK_LIMIT {
        return Err(ChannelError::TooLarge(body.len()));
    }
    let memory = memfd_create(c"message", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(body)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

fn read_memory(memory: OwnedFd) -> Result<Vec<u8>, ChannelError> {
    // Only a memory file can carry seals, so this also refuses a pipe that would never end.
    let sealed = fcntl(&memory, FcntlArg::F_GET_SEALS)
        .map_err(|_| ChannelError::Malformed("its body is not a memory file"))?;
    if !SealFlag::from_bits_truncate(sealed).contains(seals()) {
        return Err(ChannelError::Malformed("its body is not sealed"));
    }
    let file = std::fs::File::from(memory);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > BULK_LIMIT {
        return Err(ChannelError::TooLarge(length));
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, 0)?;
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw_send(to: &Channel, bytes: &[u8]) {
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), None)
            .unwrap();
    }

    proptest! {
        #[test]
        fn any_message_arrives_whole(text in ".{0,200}", numbers in prop::collection::vec(any::<u64>(), 0..50)) {
            let (a, b) = Channel::pair().unwrap();
            a.send(&(&text, &numbers), &[]).unwrap();
            let (got, fds): ((String, Vec<u64>), _) = b.recv().unwrap();
            prop_assert_eq!(got, (text, numbers));
            prop_assert!(fds.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
            let (a, b) = Channel::pair().unwrap();
            raw_send(&a, &bytes);
            let _ = b.try_recv::<(String, Vec<u64>, Option<u8>)>();
        }
    }

    #[test]
    fn a_large_message_and_its_descriptors_arrive() {
        let (a, b) = Channel::pair().unwrap();
        let big = vec![7u8; 300_000];
        let file = tempfile::tempfile().unwrap();
        a.send(&big, &[file.as_fd()]).unwrap();
        let (got, fds): (Vec<u8>, _) = b.recv().unwrap();
        assert_eq!((got.len(), fds.len()), (300_000, 1));
    }

    #[test]
    fn a_bulk_body_that_is_a_pipe_or_unsealed_is_refused() {
        let (a, b) = Channel::pair().unwrap();
        let (pipe, _keep) = nix::unistd::pipe().unwrap();
        let unsealed = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        for body in [pipe.as_raw_fd(), unsealed.as_raw_fd()] {
            let fds = [body];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(
                a.as_raw_fd(),
                &[IoSlice::new(&[BULK])],
                &rights,
                MsgFlags::empty(),
                None,
            )
            .unwrap();
            let error = b.recv::<Vec<u8>>().unwrap_err();
            assert!(matches!(error, ChannelError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn an_oversized_frame_and_an_unknown_tag_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        raw_send(&a, &vec![INLINE; FRAME_LIMIT + 1]);
        assert!(matches!(b.recv::<Vec<u8>>(), Err(ChannelError::Malformed("it was cut"))));
        raw_send(&a, &[9, 1, 2]);
        assert!(matches!(b.recv::<Vec<u8>>(), Err(ChannelError::Malformed(_))));
        drop(a);
        assert!(matches!(b.recv::<Vec<u8>>(), Err(ChannelError::Closed)));
    }
}
