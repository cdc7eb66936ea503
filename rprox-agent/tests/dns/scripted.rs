//! A DNS server that answers as a test says, for what aardvark-dns can't be made to do.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata};

/// What to answer.
pub(crate) enum Reply {
    /// Records: type, data as in a zone file, TTL.
    Records(Vec<(&'static str, &'static str, u32)>),
    /// That the name exists, without a record of that type.
    Nothing,
    /// That there is no such name.
    NoSuchName,
    /// That the server failed.
    ServFail,
    /// That it is not the one to ask.
    Refused,
    /// Nothing at all.
    Silence,
}

pub(crate) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Scripted {
    /// Answers with what `script` makes of a question's name and type, until the test's process ends.
    pub(crate) fn start(script: impl Fn(&str, &str) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                log.lock().unwrap().push(question.clone());
                if let Some(answer) = answer(&question, &script) {
                    socket.send_to(&answer.to_vec().unwrap(), peer).unwrap();
                }
            }
        });
        Self { address, seen }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions of a type came in.
    pub(crate) fn asked(&self, kind: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|message| message.queries[0].query_type().to_string() == kind).count()
    }

    /// Whether a question had EDNS.
    pub(crate) fn saw_edns(&self) -> bool {
        self.seen.lock().unwrap().iter().any(|message| message.edns.is_some())
    }
}

fn answer(question: &Message, script: impl Fn(&str, &str) -> Reply) -> Option<Message> {
    let query = question.queries[0].clone();
    let reply = script(&query.name().to_string(), &query.query_type().to_string());
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    match reply {
        Reply::Records(records) => {
            for (kind, data, ttl) in records {
                assert_eq!(
                    kind,
                    RecordType::to_string(&query.query_type()),
                    "the script answers what is asked"
                );
                answer.add_answer(Record::from_rdata(query.name().clone(), ttl, record(kind, data)));
            }
        }
        Reply::Nothing => {}
        Reply::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
        Reply::ServFail => answer.metadata.response_code = ResponseCode::ServFail,
        Reply::Refused => answer.metadata.response_code = ResponseCode::Refused,
        Reply::Silence => return None,
    }
    Some(answer)
}

fn record(kind: &str, data: &str) -> RData {
    match kind {
        "A" => RData::A(rdata::A(data.parse().unwrap())),
        "AAAA" => RData::AAAA(rdata::AAAA(data.parse().unwrap())),
        "SRV" => {
            let words = data.split(' ').collect::<Vec<_>>();
            let number = |place: usize| words[place].parse().unwrap();
            RData::SRV(rdata::SRV::new(number(0), number(1), number(2), Name::from_ascii(words[3]).unwrap()))
        }
        _ => panic!("no records of type {kind} here"),
    }
}
