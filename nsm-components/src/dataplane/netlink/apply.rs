//! Making changes: consecutive ones of a namespace in one send.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{message, session::Session, socket::Request};
use crate::{
    api::with_causes,
    dataplane::{
        announce,
        desired::End,
        operation::{At, Operation},
        port::{Failure, KernelError},
    },
};

/// Longest time to wait until a link carries packets; one whose other end somebody took down never does.
const CARRIER_LIMIT: Duration = Duration::from_millis(500);

/// Pause between two looks whether a link carries packets. A kernel since 6.8 needs one look.
const CARRIER_PACE: Duration = Duration::from_millis(2);

/// A failed operation by its place, and all places that were done.
struct Stop {
    at: usize,
    done: Vec<usize>,
    source: KernelError,
}

// === impl Session ===

impl Session {
    /// Makes the changes in order.
    pub(super) fn apply(&mut self, operations: &[Operation]) -> Result<(), Box<Failure>> {
        let mut done = Vec::with_capacity(operations.len());
        let mut from = 0;
        while from < operations.len() {
            let to = from + run_length(&operations[from..]);
            let outcome = self.apply_run(&operations[from..to]);
            if let Err(stop) = outcome {
                done.extend(stop.done.iter().map(|at| from + at));
                return Err(Box::new(Failure {
                    operation: operations[from + stop.at].clone(),
                    applied: done.into_iter().map(|at: usize| operations[at].clone()).collect(),
                    source: stop.source,
                }));
            }
            done.extend(from..to);
            from = to;
        }
        operations.iter().try_for_each(|operation| match operation {
            Operation::Raise(link, _) => self.until_it_carries(link).map_err(|source| {
                let (operation, applied) = (operation.clone(), operations.to_vec());
                Box::new(Failure { operation, applied, source })
            }),
            _ => Ok(()),
        })?;
        self.announce(operations);
        Ok(())
    }

    /// Tells the neighbours of new links. They carry packets without it, so a failure is no reason to end them.
    fn announce(&mut self, operations: &[Operation]) {
        let made = operations.iter().filter_map(|operation| match operation {
            Operation::Create(desired) => Some(announce::ends(desired)),
            _ => None,
        });
        for end in made.flatten() {
            if let Err(error) = self.tell(end) {
                let cause = with_causes(&error);
                tracing::warn!(interface = %end.name, %cause, "could not tell the neighbours of a new link");
            }
        }
    }

    fn tell(&mut self, end: &End) -> Result<(), KernelError> {
        let (four, six) = announce::addresses(end);
        let requests: Vec<_> = four.flat_map(|net| message::announcement(end.index, net.addr())).collect();
        if !requests.is_empty() {
            self.batch(end.netns, requests)?.into_iter().collect::<Result<(), _>>()?;
        }
        if !six.is_empty() {
            self.enter(end.netns)?;
            let doing = "send a neighbour advertisement";
            announce::advertise(end, &six).map_err(|source| KernelError::Io { doing, source })?;
        }
        Ok(())
    }

    /// Waits until the kernel lets packets through a raised link. The end of a pair that is raised
    /// first starts to do so only when its worker has heard of the other: what is sent before, such
    /// as the search for the neighbour, is lost, and not sought again for a second.
    fn until_it_carries(&mut self, link: &At) -> Result<(), KernelError> {
        let end = Instant::now() + CARRIER_LIMIT;
        while !self.carries(link)? && Instant::now() < end {
            std::thread::sleep(CARRIER_PACE);
        }
        Ok(())
    }

    /// Operations of one kind of transport: a sysctl or a device's keys alone, or netlink messages of one namespace.
    fn apply_run(&mut self, run: &[Operation]) -> Result<(), Stop> {
        let fail = |source| Stop { at: 0, done: Vec::new(), source };
        match run {
            [Operation::AllowPing(netns)] => self.allow_ping(*netns).map_err(fail),
            [Operation::EnableIpv6(at)] => self.enable_ipv6(at).map_err(fail),
            [Operation::SetWireguard { at, to, .. }] => self.set_wireguard(at, to).map_err(fail),
            run => self.apply_messages(run),
        }
    }

    fn apply_messages(&mut self, run: &[Operation]) -> Result<(), Stop> {
        let fail = |source| Stop { at: 0, done: Vec::new(), source };
        let netns = run.first().and_then(Operation::netns).unwrap_or_else(|| self.underlay());
        let mut requests = Vec::with_capacity(run.len());
        // Descriptors named in messages stay open until the kernel has read them.
        let mut held = Vec::new();
        for operation in run {
            requests.push(self.request(operation, &mut held).map_err(fail)?);
        }
        let answers = self.batch(netns, requests).map_err(fail)?;
        drop(held);
        let mut done = Vec::new();
        let mut stop = None;
        for (at, (operation, answer)) in run.iter().zip(answers).enumerate() {
            match answer {
                Err(source) if !is_done_already(operation, &source) => {
                    stop.get_or_insert((at, source));
                }
                _ => done.push(at),
            }
        }
        stop.map_or(Ok(()), |(at, source)| Err(Stop { at, done, source }))
    }

    fn request(
        &mut self,
        operation: &Operation,
        held: &mut Vec<crate::dataplane::netns::Netns>,
    ) -> Result<Request, KernelError> {
        let Operation::Create(desired) = operation else {
            return message::of(operation)
                .ok_or_else(|| KernelError::Answer(format!("{operation} is no netlink message")));
        };
        let mut ends = Vec::with_capacity(desired.ends.len());
        for end in &desired.ends {
            let netns = self.find(end.netns).ok_or(KernelError::NoNetns(end.netns))?;
            ends.push((end, netns.clone()));
            held.push(netns);
        }
        message::create(desired.link, &ends)
            .ok_or_else(|| KernelError::Answer(format!("{operation} has not the ends that its kind needs")))
    }
}

/// Most messages in one send. All answers wait in the socket's buffer together, which has room
/// for some 250.
const BATCH: usize = 64;

/// How many operations from the first on go out together.
fn run_length(operations: &[Operation]) -> usize {
    let alone = |op: &Operation| {
        matches!(
            op,
            Operation::AllowPing(_)
                | Operation::EnableIpv6(_)
                | Operation::SetWireguard { .. }
                | Operation::Create(_)
        )
    };
    let Some(first) = operations.first() else { return 0 };
    if alone(first) {
        return 1;
    }
    operations.iter().take(BATCH).take_while(|op| !alone(op) && op.netns() == first.netns()).count()
}

/// Deleting what is gone is done: the namespace or the peer went first. An equal address or route
/// that someone added meanwhile is the wanted one.
fn is_done_already(operation: &Operation, error: &KernelError) -> bool {
    match operation {
        Operation::Delete(_)
        | Operation::DeleteDistant(_)
        | Operation::Retire(_)
        | Operation::MarkRetired(_)
        | Operation::Rename(..)
        | Operation::DeleteRetired(_) => error.errno() == Some(Errno::ENODEV),
        // Another link may have it.
        Operation::RemoveAltname(..) => {
            matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL))
        }
        Operation::RemoveAddress(..) => error.errno() == Some(Errno::EADDRNOTAVAIL),
        Operation::RemoveRoute(..) => error.errno() == Some(Errno::ESRCH),
        Operation::RemoveNeighbour(..) | Operation::RemoveRule(..) => error.errno() == Some(Errno::ENOENT),
        Operation::AddAddress(..)
        | Operation::AddAltname(..)
        | Operation::AddRoute(..)
        | Operation::AddRule(..) => error.errno() == Some(Errno::EEXIST),
        // Without it the first packet searches by itself.
        Operation::Acquaint(..) => error.errno().is_some(),
        _ => false,
    }
}
