//! Packets through a connection, beside a link made by hand between the same namespaces.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nsm_e2e::netns::Netns;

use super::{FAR, Links, NEAR};
use crate::{
    report::{Figure, Report},
    sample::Busy,
};

/// Turns of each side; the first is not counted.
const TURNS: usize = 9;

/// How long one measurement takes.
const TIME: Duration = Duration::from_secs(1);

/// Number of the bare link, far from those of other figures.
const NUMBER: u32 = 50_000;

/// Sockets that see that they are to stop.
const LOOK: Duration = Duration::from_millis(20);

/// One way between two namespaces.
#[derive(Clone)]
struct Way {
    from: Netns,
    to: Netns,
    at: Ipv4Addr,
}

/// Bytes a second that a TCP stream brings over.
fn throughput(way: &Way) -> Result<f64> {
    let at = way.at;
    let listener = way.to.inside(move || TcpListener::bind((at, 0)))??;
    let address = listener.local_addr()?;
    let sink = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut stream, mut buffer, mut all) = (listener.accept()?.0, vec![0; 256 << 10], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(all),
                read => all += read as u64,
            }
        }
    });
    let mut stream = way.from.inside(move || TcpStream::connect(address))??;
    let (begin, buffer) = (Instant::now(), vec![0; 256 << 10]);
    while begin.elapsed() < TIME {
        stream.write_all(&buffer)?;
    }
    drop(stream);
    let brought = sink.join().map_err(|_| anyhow::anyhow!("the sink panicked"))??;
    #[allow(clippy::cast_precision_loss)]
    Ok(brought as f64 / begin.elapsed().as_secs_f64())
}

/// Datagrams a second that go there and come back, one at a time: what is lost to a full queue says
/// nothing of the way.
fn packets(way: &Way) -> Result<f64> {
    let at = way.at;
    let echo = way.to.inside(move || UdpSocket::bind((at, 0)))??;
    echo.set_read_timeout(Some(LOOK))?;
    let (address, stop) = (echo.local_addr()?, Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], from);
            }
        }
    });
    let socket = way.from.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (begin, mut count, mut buffer) = (Instant::now(), 0_u32, [7; 64]);
    while begin.elapsed() < TIME {
        socket.send(&buffer)?;
        socket.recv(&mut buffer).context("a packet did not come back")?;
        count += 1;
    }
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    answering.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?;
    Ok(rate)
}

/// Ours by the other, the median of the turns' ratios, and the least and largest of them.
fn compare(ours: &Way, bare: &Way, measure: fn(&Way) -> Result<f64>) -> Result<(f64, Vec<f64>)> {
    let (mut ratios, mut rates) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (a, b) = if turn % 2 == 0 {
            let a = measure(ours)?;
            (a, measure(bare)?)
        } else {
            let b = measure(bare)?;
            (measure(ours)?, b)
        };
        if turn > 0 {
            ratios.push(a / b);
            rates.push(a);
        }
    }
    ratios.sort_by(f64::total_cmp);
    rates.sort_by(f64::total_cmp);
    Ok((rates[rates.len() / 2], ratios))
}

fn figure(what: String, unit: &'static str, (rate, ratios): (f64, Vec<f64>), busy: f64) -> Figure {
    let ratio = ratios[ratios.len() / 2];
    Figure {
        what,
        unit,
        id: "P27",
        value: rate,
        ratio_to_limit: Some(ratio),
        ratio_spread: ratios.first().copied().zip(ratios.last().copied()),
        samples: ratios.len(),
        busy_percent: busy,
        bar: "at least 0.98 of a link made by hand".to_owned(),
        holds: ratio >= 0.98,
        ..Figure::default()
    }
}

pub(super) async fn measure(links: &Links, report: &mut Report) -> Result<()> {
    let client = links.one()?;
    for (service, endpoint, where_to) in [(NEAR, links.near, "one node"), (FAR, links.far, "two nodes")] {
        let connection = client.open(service, "nsm-datapath").await?;
        let context = connection.context.clone().and_then(|context| context.ip_context);
        let there =
            context.and_then(|context| context.dst_ip_addrs.first().cloned()).context("no address")?;
        let IpAddr::V4(at) = there.split('/').next().unwrap_or_default().parse()? else {
            anyhow::bail!("{there}: these figures are over IPv4");
        };
        let (from, to) = (links.pod()?.clone(), links.mesh.pod_of(endpoint)?.clone());
        let ours = Way { from: from.clone(), to: to.clone(), at };
        let mtu = from.list("link show dev nsm-datapath")?[0]["mtu"].clone();
        let at = if service == NEAR {
            links.pairs()?.make(NUMBER)?;
            super::bare::ip(NUMBER, 1)
        } else {
            links.tunnels()?.make(NUMBER)?;
            super::bare::ip(NUMBER, 1)
        };
        for netns in [&from, &to] {
            netns.ip(&format!("link set dev bare-{NUMBER} mtu {mtu}"))?;
        }
        let bare = Way { from, to, at };
        let busy = Busy::start();
        let (rate, ratios) = compare(&ours, &bare, throughput)?;
        report.add(figure(
            format!("throughput of a TCP stream, {where_to}"),
            "MB/s",
            (rate / 1e6, ratios),
            busy.percent(),
        ));
        let busy = Busy::start();
        let trips = compare(&ours, &bare, packets)?;
        report.add(figure(format!("packets there and back, {where_to}"), "/s", trips, busy.percent()));
        links.pairs()?.clear()?;
        client.close(connection).await?;
        links.gone()?;
    }
    Ok(())
}
