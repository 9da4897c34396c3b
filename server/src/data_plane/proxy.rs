//! A load balancer says in front of a connection whose it is. Believed from trusted networks only: everybody else could
//! claim any address.

use std::rc::Rc;
use std::task::{Context, Poll};

use etherply_wire::proxy::{self, PROXY_HEADER_BYTES_MAX, Parsed, Source};

use super::core::Core;
use super::pace::Pace;
use crate::runtime::Stream;
use crate::throttle::Admission;

/// Reads the header of a connection that has to begin with one, and nothing behind it. Ready with whether the
/// connection may go on; it is counted as its client's then.
pub(super) fn poll_header(
    core: &Rc<Core>,
    context: &mut Context<'_>,
    id: u64,
    stream: &mut Stream,
    header: &mut Vec<u8>,
) -> Poll<bool> {
    loop {
        let mut state = core.state.borrow_mut();
        let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(false) };
        if connection.is_ending() {
            return Poll::Ready(false);
        }
        connection.waker = Some(context.waker().clone());
        let needs = match proxy::parse(header) {
            Ok(Parsed::Needs(bytes)) => bytes,
            Ok(Parsed::Whole(Source::Itself)) => return Poll::Ready(true),
            Ok(Parsed::Whole(Source::Address(address))) => {
                let now_us = state.setup.now_us();
                let taken = state.setup.throttle.admit(address, now_us);
                let Some(connection) = state.connections.get_mut(id) else { return Poll::Ready(false) };
                return match taken {
                    Ok(Admission { address, ticket, retry_after_ms, .. }) => {
                        connection.address = address;
                        connection.pace = Pace::new(ticket);
                        connection.retry_after_ms = retry_after_ms;
                        Poll::Ready(true)
                    }
                    Err(reason) => {
                        state.setup.metrics.rejected.with_label_values(&[reason]).inc();
                        Poll::Ready(false)
                    }
                };
            }
            Err(malformed) => {
                tracing::debug!(peer = id, "a header of the PROXY protocol is refused: {malformed}");
                state.setup.metrics.rejected.with_label_values(&["proxy"]).inc();
                return Poll::Ready(false);
            }
        };
        drop(state);
        let mut bytes = [0; PROXY_HEADER_BYTES_MAX];
        let missing = bytes.get_mut(..needs.saturating_sub(header.len())).unwrap_or_default();
        match stream.poll_read(context, missing) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(read)) if read > 0 => {
                header.extend_from_slice(missing.get(..read).unwrap_or_default());
            }
            Poll::Ready(_) => return Poll::Ready(false),
        }
    }
}
