//! Where client connections are on which nothing is asked.
//!
//! A task, a client's state and what the event loop keeps of a socket come to more than two kibibytes, of which a connection between two
//! requests needs nothing. Here it is a descriptor and whose it is, watched by an epoll(7) instance of the worker's own; what its client does
//! next gives it a task again.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use slab::Slab;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::roster::Ticket;
use crate::proxy::admission::Place;
use crate::proxy::connection::{Arrival, Origin};
use crate::proxy::listen::Admission;
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::socket::watched;
use crate::proxy::worker::Worker;

/// How many are given tasks by one look.
const AT_ONCE: usize = 64;

/// The worker's connections that rest.
pub struct Parking {
    epoll: AsyncFd<OwnedFd>,
    parked: RefCell<Slab<(Admission, Box<Parked>)>>,
    /// Of the task that attends them.
    attendant: RefCell<Waker>,
}

/// An HTTP/1.1 connection without TLS between two requests.
pub struct Parked {
    /// Its place among its client's.
    pub place: Place,
    /// Its place among the worker's.
    pub ticket: Ticket,
    /// The connection.
    pub tcp: net::TcpStream,
    /// Both of its ends.
    pub ends: Ends,
    /// How many requests there have been.
    pub served: u32,
    /// When `timeouts.idle` is over.
    pub deadline: Instant,
}

impl Parking {
    /// An empty one, in the event loop of this thread.
    ///
    /// # Errors
    ///
    /// When there are no descriptors or no memory for it.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let epoll = watched::for_reading(epoll)?;
        Ok(Self { epoll, parked: RefCell::default(), attendant: RefCell::new(Waker::noop().clone()) })
    }

    /// Keeps a connection until its client does something, or it has to go.
    pub fn park(&self, admission: Admission, mut parked: Box<Parked>) {
        if admission.worker().ends_idle() {
            return;
        }
        let mut all = self.parked.borrow_mut();
        let entry = all.vacant_entry();
        let key = EventData::new_u64(entry.key() as u64);
        let asked = EventFlags::IN | EventFlags::RDHUP;
        if let Err(error) = epoll::add(self.epoll.get_ref(), &parked.tcp, key, asked) {
            watched::refused(&error);
            return;
        }
        parked.ticket.change_hands();
        let deadline = parked.deadline;
        let _ = parked.ticket.poll_deadline(&mut Context::from_waker(&self.attendant.borrow()), deadline);
        entry.insert((admission, parked));
    }

    /// Gives tasks to connections whose clients have done something; ready if there may be more of them.
    fn poll_asked(&self, cx: &mut Context<'_>, worker: &Rc<Worker>) -> Poll<()> {
        let Poll::Ready(Ok(mut readiness)) = self.epoll.poll_read_ready(cx) else { return Poll::Pending };
        let mut events = [const { MaybeUninit::<Event>::uninit() }; AT_ONCE];
        let now = Timespec::default();
        let Ok((events, _)) = epoll::wait(self.epoll.get_ref(), &mut events, Some(&now)) else {
            return Poll::Ready(());
        };
        if events.len() < AT_ONCE {
            // What is done from now on is told anew.
            readiness.clear_ready();
        }
        for event in events {
            let key = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let Some((admission, mut parked)) = self.parked.borrow_mut().try_remove(key) else { continue };
            if epoll::delete(self.epoll.get_ref(), &parked.tcp).is_ok() {
                parked.ticket.change_hands();
                worker.arrivals.give(worker, Arrival { admission, from: Origin::Parking(parked) });
            }
        }
        Poll::Ready(())
    }

    /// Closes those that have rested for too long, and all where they are to go.
    fn let_go(&self, cx: &mut Context<'_>, worker: &Worker) {
        self.parked.borrow_mut().retain(|_, (_, parked)| {
            let deadline = parked.deadline;
            !worker.ends_idle() && parked.ticket.poll_deadline(cx, deadline).is_pending()
        });
    }
}

/// Attends `worker`'s connections that rest, for ever.
pub async fn attend(worker: Rc<Worker>) {
    let parking = &worker.parking;
    let mut seen = worker.roster.alarm();
    poll_fn::<(), _>(|cx| {
        parking.attendant.borrow_mut().clone_from(cx.waker());
        while parking.poll_asked(cx, &worker).is_ready() {}
        let alarm = worker.roster.alarm();
        if mem::replace(&mut seen, alarm) != alarm {
            parking.let_go(cx, &worker);
        }
        Poll::Pending
    })
    .await;
}
