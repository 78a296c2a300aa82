// Board's side of `tern-bench --rpc` without Python: TVM's RPC server, one process per client, one session at a time.
// Whoever can connect can run any code here, so it listens on loopback unless --host says otherwise.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>

#include "board.h"

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

constexpr int32_t kMagic = 0xff271, kBusy = kMagic + 1, kMismatch = kMagic + 2;  // of tvm/rpc/base.py
#ifndef HANDSHAKE_SECONDS  // tests wait for less
#define HANDSHAKE_SECONDS 5  // from a connection to its last word, however it is split
#define BUSY_SECONDS 3       // how long a client waits for the end of another's session before it is told to come again
#endif
constexpr int kClients = 64, kThreads = 128;  // connections at once; threads of the pools in libraries

struct Network {  // of --allow, in the machine's byte order
  uint32_t address, mask;
};

struct Options {
  std::string host = "127.0.0.1", key = "board";
  int port = 9090, limit = 4 * 3600;  // seconds of a session
  std::vector<Network> allow;
};

static bool number(const std::string& text, int low, int high, int* into) {
  char* end = nullptr;
  long value = strtol(text.c_str(), &end, 10);
  *into = static_cast<int>(value);
  return !text.empty() && !*end && low <= value && value <= high;
}

static bool network(const std::string& text, Network* into) {  // 192.168.1.10 or 192.168.1.0/24
  size_t slash = text.find('/');
  int bits = 32;
  in_addr address{};
  if (slash != std::string::npos && !number(text.substr(slash + 1), 0, 32, &bits)) return false;
  if (inet_pton(AF_INET, text.substr(0, slash).c_str(), &address) != 1) return false;
  into->mask = bits ? ~uint32_t{0} << (32 - bits) : 0;
  into->address = ntohl(address.s_addr) & into->mask;
  return true;
}

using Clock = std::chrono::steady_clock;

static void receive(int fd, void* data, size_t size, Clock::time_point finish) {
  for (char* at = static_cast<char*>(data); size;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(finish - Clock::now()).count();
    pollfd waiting{fd, POLLIN, 0};
    if (left < 0 || poll(&waiting, 1, static_cast<int>(left)) == 0) throw "it did not say who it is in time";
    ssize_t got = read(fd, at, size);
    if (got <= 0) throw "it went away";
    at += got, size -= got;
  }
}

static bool answer(int fd, const void* data, size_t size) { return write(fd, data, size) == static_cast<ssize_t>(size); }

// The client names its key, perhaps with its limit in seconds (" -timeout=10", at most ours). Throws why it is refused.
static void greet(int fd, const std::string& key, double* limit) {
  auto finish = Clock::now() + std::chrono::seconds(HANDSHAKE_SECONDS);
  int32_t magic = 0, size = 0;
  receive(fd, &magic, 4, finish);
  if (magic != kMagic) throw "it is no client of TVM's RPC";
  receive(fd, &size, 4, finish);
  if (size < 0 || size > 4096) throw "it is no client of TVM's RPC";
  std::string named(size, ' ');
  receive(fd, &named[0], size, finish);
  if (named.substr(0, named.find(' ')) != "client:" + key) {
    answer(fd, &kMismatch, 4);
    throw "it named another key";
  }
  size_t option = named.find(" -timeout=");
  double asked = option == std::string::npos ? 0 : atof(named.c_str() + option + 10);
  if (asked > 0 && asked < *limit) *limit = asked;  // what is no number is neither
}

static bool welcome(int fd, const std::string& key) {
  std::string own = "server:" + key;
  int32_t size = static_cast<int32_t>(own.size());
  return answer(fd, &kMagic, 4) && answer(fd, &size, 4) && answer(fd, own.data(), own.size());
}

// Whether this process has the board now: it locks a file that all of them have, until it ends.
static bool claim(int lock) {
  struct flock whole{};
  whole.l_type = F_WRLCK, whole.l_whence = SEEK_SET;
  for (int tries = 0; tries < BUSY_SECONDS * 20; ++tries) {
    if (fcntl(lock, F_SETLK, &whole) == 0) return true;
    usleep(50000);
  }
  return false;
}

template <typename F>
static void define(const char* name, F function) {
  ffi::Function::SetGlobal(name, ffi::Function::FromTyped(function), true);
}

static void session(int fd, const fs::path& folder) {
  auto path = [folder](const ffi::String& name) { return (folder / fs::path(std::string(name)).filename()).string(); };
  long long before = board::peak_bytes();
  define("tvm.rpc.server.workpath", [path](ffi::String name) { return ffi::String(path(name)); });
  define("tvm.rpc.server.load_module", [path](ffi::String name) { return ffi::Module::LoadFromFile(path(name)); });
  define("tern.board.describe", [] { return ffi::String(board::describe()); });
  define("tern.board.condition", [] { return ffi::String(board::condition()); });
  define("tern.board.memory", [before] { return ffi::String(board::memory(before)); });
  ffi::Function::GetGlobalRequired("rpc.ServerLoop")(fd);
}

// Lets this process get a signal when its parent ends, or ends it if that has happened.
static void end_with(pid_t parent, int number) {
  prctl(PR_SET_PDEATHSIG, number);
  if (getppid() != parent) _exit(1);
}

static void serve(int fd, double limit) {
  std::string name = fs::temp_directory_path() / "tern-rpc-XXXXXX";
  sigset_t awaited, before;  // the end of the session, or of the server, whatever ended it
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGCHLD);
  sigaddset(&awaited, SIGTERM);
  sigprocmask(SIG_BLOCK, &awaited, &before);
  if (!mkdtemp(&name[0])) return perror("mkdtemp");
  pid_t own = getpid(), child = fork();
  if (child == 0) {
    end_with(own, SIGKILL);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    itimerval timer{};
    timer.it_value.tv_sec = static_cast<time_t>(limit);
    timer.it_value.tv_usec = static_cast<suseconds_t>((limit - static_cast<time_t>(limit)) * 1e6);
    setitimer(ITIMER_REAL, &timer, nullptr);  // its signal ends the session
    try {
      session(fd, name);
    } catch (const std::exception& error) {
      fprintf(stderr, "%s\n", error.what());
      _exit(1);
    }
    _exit(0);
  }
  int status = 0, number = 0;
  if (child > 0) {
    if (sigwait(&awaited, &number) == 0 && number == SIGTERM) kill(child, SIGKILL);
    waitpid(child, &status, 0);
  }
  std::error_code ignored;
  fs::remove_all(name, ignored);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) printf("session was stopped at its limit\n");
  else if (WIFSIGNALED(status)) printf("session crashed: %s\n", strsignal(WTERMSIG(status)));
  else printf("session ended%s\n", status ? " with an error" : "");
}

// What happens to a client, in a process of its own: who is slow or waits holds up nobody else.
static void client(int fd, const std::string& peer, const Options& options, int lock) {
  double limit = options.limit;
  try {
    greet(fd, options.key, &limit);
  } catch (const char* reason) {
    printf("refused %s: %s\n", peer.c_str(), reason);
    return;
  }
  if (!claim(lock)) {
    answer(fd, &kBusy, 4);
    printf("refused %s: another session runs\n", peer.c_str());
  } else if (welcome(fd, options.key)) {
    int on = 1, idle = 10, every = 5, count = 4;  // notice a client that is gone
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    printf("session of %s starts\n", peer.c_str());
    serve(fd, limit);
  }
}

static int usage(const char* program) {
  fprintf(stderr, "usage: %s [--host ADDRESS] [--port PORT] [--key KEY] [--allow ADDRESS]... [--threads N]\n"
          "       [--limit SECONDS]\n"
          "ADDRESS is of IPv4, of --allow also a network such as 192.168.1.0/24; PORT is up to 65535, 0 for any that is\n"
          "free; the default is 127.0.0.1, port 9090, key board, all CPUs' time; a session ends after --limit, by default 14400\n", program);
  return 2;
}

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i], given = argv[i + 1];
    Network allowed{};
    int count = 0;
    if (name == "--host") options.host = given;
    else if (name == "--port" && number(given, 0, 65535, &options.port)) continue;
    else if (name == "--key" && !given.empty() && given.find(' ') == std::string::npos) options.key = given;
    else if (name == "--allow" && network(given, &allowed)) options.allow.push_back(allowed);
    else if (name == "--limit" && number(given, 1, 10000000, &options.limit)) continue;
    else if (name == "--threads" && number(given, 1, kThreads, &count)) setenv("TVM_NUM_THREADS", given.c_str(), 1);
    else return usage(argv[0]);
  }
  if (argc % 2 == 0) return usage(argv[0]);
  int threads = std::min(board::threads(), kThreads);
  setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);  // TVM's own choice knows of no quota
  setvbuf(stdout, nullptr, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);

  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(options.port);
  if (inet_pton(AF_INET, options.host.c_str(), &address.sin_addr) != 1) return usage(argv[0]);
  int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listening, reinterpret_cast<sockaddr*>(&address), sizeof address) || listen(listening, 8)) {
    fprintf(stderr, "error: cannot listen at %s:%d: %s\n", options.host.c_str(), options.port, strerror(errno));
    return 1;
  }
  socklen_t length = sizeof address;
  getsockname(listening, reinterpret_cast<sockaddr*>(&address), &length);
  bool local = (ntohl(address.sin_addr.s_addr) >> 24) == 127;
  printf("%s, %zu cores, %d threads\n", board::name().c_str(), board::cpus().size(), threads);
  printf("serving at %s:%d, key %s\n", options.host.c_str(), ntohs(address.sin_port), options.key.c_str());
  printf("warning: %s can now run any code here\n",
         local ? "users of this machine" : options.allow.empty() ? "EVERY machine that can reach this address" : "those of --allow");

  FILE* shared = tmpfile();
  if (!shared) return perror("tmpfile"), 1;
  int clients = 0;
  pid_t own = getpid();
  for (;;) {
    length = sizeof address;
    int fd = accept4(listening, reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC);
    while (waitpid(-1, nullptr, WNOHANG) > 0) --clients;
    if (fd < 0) continue;
    std::string peer = inet_ntoa(address.sin_addr);
    bool allowed = options.allow.empty();
    for (const auto& entry : options.allow)
      allowed = allowed || (ntohl(address.sin_addr.s_addr) & entry.mask) == entry.address;
    if (!allowed) {
      printf("refused %s: not in --allow\n", peer.c_str());
    } else if (clients >= kClients) {
      printf("refused %s: too many connections at once\n", peer.c_str());
    } else {
      pid_t child = fork();
      if (child == 0) {
        end_with(own, SIGTERM);
        close(listening);
        client(fd, peer, options, fileno(shared));
        _exit(0);
      }
      clients += child > 0;
    }
    close(fd);
  }
}
