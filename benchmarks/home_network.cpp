// An emulated home network: devices around a router, in network namespaces. home_network.py builds and starts it.
//
//   home_network run PARENT N
//       N namespaces, 10.88.0.1 ... 10.88.0.N, until stdin closes or the process PARENT ends.
//       Prints "ready"; then a command a line on stdin, and an answer to each on stdout.
//   home_network enter PID NODE PROGRAM ARGUMENT...
//       Becomes PROGRAM in the namespace of a node (0 ... N - 1) of the network PID.
//
// A packet waits for its sender's link, takes size / rate there, travels for the delay (and jitter), waits for its
// receiver's link, and takes size / rate again. Namespaces have no names and devices are not kept, so the kernel
// removes all when this process ends, however it ends. Exit status 77: this machine does not allow it.

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int kMtu = 1500, kNotAllowed = 77, kNamespaces = 100;  // node i's namespace is open as kNamespaces + i
constexpr size_t kMostPackets = 1 << 16;  // on their way from one node, where no rate bounds them
using Nanoseconds = int64_t;

struct Packet {
    Nanoseconds due;  // when it has passed the stage it is in
    int from, to, size;
    unsigned char bytes[kMtu];
};

struct Node {
    int tun = -1;
    bool cut = false;
    std::deque<Packet> sent, arriving;                // on the way to receivers; before and on the link to this node
    Nanoseconds up_free = 0, down_free = 0;           // when the last packet has left its link
    long delivered = 0, overflowed = 0, cut_off = 0;  // packets from this node, and what became of them
};

struct {
    double delay_ms = 0, jitter_ms = 0, rate_mbit = 0, queue_kib = 1500;  // rate 0: no limit
} settings;
std::vector<Node> nodes;

Nanoseconds now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

[[noreturn]] void fail(const char* what) {
    const int error = errno;
    const auto is_there = [](const char* path) { return access(path, F_OK) == 0; };
    const bool lacks = !is_there("/dev/net/tun") || !is_there("/proc/self/ns/net") || !is_there("/proc/self/ns/user");
    const bool refused = error == EPERM || error == EACCES || error == ENODEV || error == ENOSPC ||
                         (lacks && (error == ENOENT || error == EINVAL));  // with all of it there, these are faults of ours
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(error));
    std::exit(refused ? kNotAllowed : 1);
}

void write_file(const char* path, const std::string& text) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail(path);
    close(fd);
}

// Who is not root may make network namespaces within a user namespace, in which one stays who one is.
void enter_user_namespace() {
    const std::string user = std::to_string(geteuid()), group = std::to_string(getegid());
    if (unshare(CLONE_NEWUSER) != 0) fail("network namespaces, or user namespaces for who is not root");
    write_file("/proc/self/setgroups", "deny");
    write_file("/proc/self/uid_map", user + " " + user + " 1");
    write_file("/proc/self/gid_map", group + " " + group + " 1");
}

void make_node(int index) {
    if (unshare(CLONE_NEWNET) != 0) {
        if (errno != EPERM || index > 0) fail("network namespaces");
        enter_user_namespace();
        if (unshare(CLONE_NEWNET) != 0) fail("network namespaces");
    }
    const int ns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (ns < 0 || fcntl(ns, F_DUPFD_CLOEXEC, kNamespaces + index) != kNamespaces + index) fail("/proc/self/ns/net");
    close(ns);

    ifreq device{};
    std::strcpy(device.ifr_name, "home0");
    device.ifr_flags = IFF_TUN | IFF_NO_PI;
    const int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0 || ioctl(tun, TUNSETIFF, &device) != 0) fail("/dev/net/tun");
    const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const auto set = [&](unsigned long request) {
        if (ioctl(control, request, &device) != 0) fail("setting up a device");
    };
    const auto address = [&](const std::string& text, unsigned long request) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        inet_pton(AF_INET, text.c_str(), &in.sin_addr);
        std::memcpy(&device.ifr_addr, &in, sizeof in);
        set(request);
    };
    address("10.88.0." + std::to_string(index + 1), SIOCSIFADDR);
    address("255.255.255.0", SIOCSIFNETMASK);
    device.ifr_mtu = kMtu;
    set(SIOCSIFMTU);
    device.ifr_qlen = 4096;  // between the kernel and this program, where nobody counts what is dropped
    ioctl(control, SIOCSIFTXQLEN, &device);  // for root alone; 500 otherwise
    device.ifr_flags = IFF_UP | IFF_RUNNING | IFF_MULTICAST;
    set(SIOCSIFFLAGS);
    std::strcpy(device.ifr_name, "lo");
    device.ifr_flags = IFF_UP | IFF_RUNNING;
    set(SIOCSIFFLAGS);
    close(control);
    nodes.emplace_back().tun = tun;
}

Nanoseconds on_link(double n_bytes) {
    return settings.rate_mbit > 0 ? static_cast<Nanoseconds>(n_bytes * 8000 / settings.rate_mbit) : 0;
}

// When a packet that may leave at `start` has passed a link that is free at `free`; 0 if the queue before it is full.
Nanoseconds pass(Nanoseconds start, Nanoseconds& free, int size) {
    if (settings.rate_mbit > 0 && free - start > on_link(settings.queue_kib * 1024)) return 0;
    return free = std::max(start, free) + on_link(size);
}

void receive(int from) {
    static std::mt19937 random{1};  // the same jitter in every run
    Node& node = nodes[static_cast<size_t>(from)];
    Packet packet;
    packet.from = from;
    for (int count = 0; count < 64; ++count) {  // then the others have their turn
        packet.size = static_cast<int>(read(node.tun, packet.bytes, kMtu));
        if (packet.size < 20 || packet.bytes[0] >> 4 != 4) {  // nothing there; or IPv6, which nobody here speaks
            if (packet.size < 0) return;
            continue;
        }
        const unsigned char* to = packet.bytes + 16;
        const bool known = to[0] == 10 && to[1] == 88 && to[2] == 0 && to[3] >= 1 && to[3] <= nodes.size();
        const bool all = to[0] >> 4 == 14 || to[3] == 255;  // multicast, as mDNS, and broadcast
        if (!known && !all) continue;
        const Nanoseconds gone = pass(now(), node.up_free, packet.size);
        if (gone == 0 || node.sent.size() > kMostPackets) {
            ++node.overflowed;
            continue;
        }
        const double jitter = std::uniform_real_distribution<>(0, 1)(random) * settings.jitter_ms;
        packet.due = gone + static_cast<Nanoseconds>((settings.delay_ms + jitter) * 1e6);
        for (int other = 0; other < static_cast<int>(nodes.size()); ++other) {
            if (all ? other == from : other != to[3] - 1) continue;
            packet.to = other;
            node.sent.push_back(packet);  // a queue: who is due earlier waits for who is before it
        }
    }
}

// Moves what is due; returns when the next packet will be.
Nanoseconds forward() {
    const Nanoseconds time = now();
    for (;;) {  // to the receivers' links, in the order in which packets come there
        Node* first = nullptr;
        for (Node& node : nodes)
            if (!node.sent.empty() && (!first || node.sent.front().due < first->sent.front().due)) first = &node;
        if (!first || first->sent.front().due > time) break;
        Packet& packet = first->sent.front();
        Node& to = nodes[static_cast<size_t>(packet.to)];
        packet.due = pass(packet.due, to.down_free, packet.size);
        if (packet.due == 0)
            ++first->overflowed;
        else
            to.arriving.push_back(packet);
        first->sent.pop_front();
    }
    Nanoseconds next = INT64_MAX;
    for (Node& node : nodes) {
        for (; !node.arriving.empty() && node.arriving.front().due <= time; node.arriving.pop_front()) {
            const Packet& packet = node.arriving.front();
            Node& from = nodes[static_cast<size_t>(packet.from)];
            if (node.cut || from.cut)
                ++from.cut_off;
            else if (write(node.tun, packet.bytes, static_cast<size_t>(packet.size)) == packet.size)
                ++from.delivered;
        }
        if (!node.arriving.empty()) next = std::min(next, node.arriving.front().due);
        if (!node.sent.empty()) next = std::min(next, node.sent.front().due);
    }
    return next;
}

std::string obey(const std::string& line) {
    char word[16] = "", rest = 0;
    double value = 0;
    const int fields = std::sscanf(line.c_str(), "%15s %lf %c", word, &value, &rest);
    const std::string name = word;
    if (name == "counts" && fields == 1) {
        std::string text = "ok";
        for (const Node& node : nodes)
            for (const long n : {node.delivered, node.overflowed, node.cut_off}) text += " " + std::to_string(n);
        return text;
    }
    if (fields == 2 && (name == "cut" || name == "mend")) {
        if (!(value >= 0 && value < static_cast<double>(nodes.size()))) return "expected a node, came: " + line;
        nodes[static_cast<size_t>(value)].cut = name == "cut";
        return "ok";
    }
    double* const setting = name == "delay"    ? &settings.delay_ms
                            : name == "jitter" ? &settings.jitter_ms
                            : name == "rate"   ? &settings.rate_mbit
                            : name == "queue"  ? &settings.queue_kib
                                               : nullptr;
    if (!setting || fields != 2 || !(value >= 0 && value <= 1e5))
        return "expected a setting from 0 to 100000, came: " + line;
    *setting = value;
    return "ok";
}

// False when stdin has ended.
bool read_commands() {
    static std::string pending;
    char buffer[512];
    const ssize_t size = read(STDIN_FILENO, buffer, sizeof buffer);
    if (size <= 0) return size < 0 && errno == EINTR;
    pending.append(buffer, static_cast<size_t>(size));
    for (size_t end; (end = pending.find('\n')) != std::string::npos; pending.erase(0, end + 1)) {
        std::puts(obey(pending.substr(0, end)).c_str());
        std::fflush(stdout);
    }
    return pending.size() < 4096;
}

// Ends all that lives in the namespaces, children of children too.
void kill_residents() {
    struct stat ours{}, theirs{};
    for (bool found = true; found; usleep(1000)) {
        found = false;
        DIR* const all = opendir("/proc");
        while (const dirent* entry = readdir(all)) {
            const int pid = std::atoi(entry->d_name);
            const std::string ns = std::string("/proc/") + entry->d_name + "/ns/net";
            if (pid <= 0 || pid == getpid() || stat(ns.c_str(), &theirs) != 0) continue;
            for (size_t i = 0; i < nodes.size(); ++i) {
                if (fstat(kNamespaces + static_cast<int>(i), &ours) != 0) continue;
                const bool resident = ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
                if (resident && kill(pid, SIGKILL) == 0) found = true;
            }
        }
        closedir(all);
    }
}

int run(int parent, int n) {
    const int parent_fd = static_cast<int>(syscall(SYS_pidfd_open, parent, 0));
    if (parent_fd < 0 || getppid() != parent) return 1;
    nodes.reserve(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) make_node(i);
    prctl(PR_SET_TIMERSLACK, 1UL);
    sched_param priority{};  // where it is allowed: this stands for what is not a processor of the devices
    priority.sched_priority = 2;
    sched_setscheduler(0, SCHED_FIFO, &priority);
    std::puts("ready");
    std::fflush(stdout);

    std::vector<pollfd> fds{{STDIN_FILENO, POLLIN, 0}, {parent_fd, POLLIN, 0}};
    for (const Node& node : nodes) fds.push_back({node.tun, POLLIN, 0});
    for (;;) {
        const Nanoseconds next = forward();
        const Nanoseconds wait = std::max<Nanoseconds>(0, next - now());
        const timespec timeout{wait / 1'000'000'000, wait % 1'000'000'000};
        ppoll(fds.data(), fds.size(), next == INT64_MAX ? nullptr : &timeout, nullptr);
        if (fds[1].revents != 0 || (fds[0].revents != 0 && !read_commands())) break;
        for (size_t i = 2; i < fds.size(); ++i)
            if (fds[i].revents != 0) receive(static_cast<int>(i - 2));
    }
    kill_residents();
    return 0;
}

int enter(const std::string& network, int node, char** argv) {
    const std::string proc = "/proc/" + network;
    const int user = open((proc + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC);
    const int net = open((proc + "/fd/" + std::to_string(kNamespaces + node)).c_str(), O_RDONLY | O_CLOEXEC);
    struct stat ours{}, theirs{};
    if (user < 0 || net < 0 || fstat(user, &theirs) != 0 || stat("/proc/self/ns/user", &ours) != 0)
        fail("no such network");
    if (ours.st_ino != theirs.st_ino && setns(user, CLONE_NEWUSER) != 0) fail("entering the user namespace");
    if (setns(net, CLONE_NEWNET) != 0) fail("entering the network namespace");
    execvp(argv[0], argv);
    std::perror(argv[0]);
    return 127;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string verb = argc > 3 ? argv[1] : "";
    if (verb == "run") return run(std::atoi(argv[2]), std::clamp(std::atoi(argv[3]), 1, 250));
    if (verb == "enter" && argc > 4) return enter(argv[2], std::atoi(argv[3]), argv + 4);
    std::fputs("home_network.py starts this program.\n", stderr);
    return 2;
}
