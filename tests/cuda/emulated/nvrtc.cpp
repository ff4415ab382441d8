/* NVRTC's functions, by the host's compiler: a program becomes a shared object of kernels for the emulation
 * (library.cpp). The sources that it includes are those it is given; the system's headers are the host's own.
 *
 * With HEED_TEST_NVRTC naming NVIDIA's library, every program is first compiled by that, with the options
 * that it is given, for every target, or those of HEED_TEST_NVRTC_TARGETS="86 90": an error there is an error
 * here, and so is a kernel that needs a stack, or spills registers.
 *
 * Every call counts among those of the emulation that may fail. HEED_FAKE_NVRTC="DROPS 0" is a seeded bug:
 * the constant HEED_CHOSEN_DROPS is 0 whatever the program says. "nonsense": what is compiled is no code.
 * HEED_FAKE_NVRTC_VERSION is the version that the library has, if not 13. */
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "fakes/library.h"

struct nvrtc_program {
    std::string text, log, image;
    std::vector<std::string> name, header;
};

enum { SUCCESS = 0, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL = 11 };

static const char ARCHITECTURE[] = "--gpu-architecture=sm_";

namespace fs = std::filesystem;

static std::string slurp(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

static void spill(const fs::path &path, const std::string &text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

static std::vector<std::string> words(const char *text) {
    std::istringstream in(text);
    std::vector<std::string> all;
    for (std::string word; in >> word;) all.push_back(word);
    return all;
}

/* Its messages go to a file. */
static bool run(const std::vector<std::string> &command, const fs::path &messages) {
    const pid_t child = fork();
    if (child == 0) {
        std::vector<char *> argument;
        for (const std::string &word : command) argument.push_back(const_cast<char *>(word.c_str()));
        argument.push_back(nullptr);
        if (!freopen(messages.c_str(), "w", stderr)) _exit(127);
        execvp(argument[0], argument.data());
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return false;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int build(nvrtc_program *p, const fs::path &folder) {
    for (size_t i = 0; i < p->name.size(); i++)
        if (p->name[i].find('/') != std::string::npos) spill(folder / p->name[i], p->header[i]);
    spill(folder / "heed.cpp", p->text);
    std::vector<std::string> command = {TWIN_COMPILER};
    for (const std::string &flag : words(TWIN_FLAGS)) command.push_back(flag);
    for (const std::string &word : {"-I" + folder.string(), "-o" + (folder / "twin.so").string(),
                                    (folder / "heed.cpp").string(), std::string(TWIN_LIBRARY)})
        command.push_back(word);
    const bool done = run(command, folder / "messages");
    p->log = slurp(folder / "messages");
    if (done) p->image = slurp(folder / "twin.so");
    return done ? SUCCESS : COMPILATION;
}

/* ---- NVIDIA's ---- */

struct real_nvrtc {
    typedef void *handle;
    int (*nvrtcCreateProgram)(handle *, const char *, const char *, int, const char *const *,
                              const char *const *);
    int (*nvrtcCompileProgram)(handle, int, const char *const *);
    int (*nvrtcDestroyProgram)(handle *);
    int (*nvrtcGetProgramLogSize)(handle, size_t *);
    int (*nvrtcGetProgramLog)(handle, char *);
    int (*nvrtcGetCUBINSize)(handle, size_t *);
};

static void need(bool there, const char *what) {
    if (there) return;
    fprintf(stderr, "emulated CUDA: HEED_TEST_NVRTC: %s\n", what);
    abort();
}

static const real_nvrtc *real() {
    static real_nvrtc rtc;
    const char *path = getenv("HEED_TEST_NVRTC");
    if (!path || rtc.nvrtcCreateProgram) return path ? &rtc : nullptr;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    need(library != nullptr, path);
#define FIND(name)                                                                                           \
    *reinterpret_cast<void **>(&rtc.name) = dlsym(library, #name);                                           \
    need(rtc.name != nullptr, #name)
    FIND(nvrtcCompileProgram);
    FIND(nvrtcDestroyProgram);
    FIND(nvrtcGetProgramLogSize);
    FIND(nvrtcGetProgramLog);
    FIND(nvrtcGetCUBINSize);
    FIND(nvrtcCreateProgram);
#undef FIND
    return &rtc;
}

/* What the assembler says of kernels, or their functions, that touch local memory; empty if none does. */
static std::string local_memory(const std::string &log) {
    std::istringstream lines(log);
    int functions = 0;
    for (std::string line, name; std::getline(lines, line);) {
        const size_t at = line.find("Function properties for "), bytes = line.find(" bytes stack frame");
        if (at != std::string::npos) name = line.substr(at + strlen("Function properties for "));
        if (bytes == std::string::npos) continue;
        functions++;
        if (line.find(" 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == std::string::npos)
            return "error: " + name + ": " + line.substr(line.find_first_of("0123456789"));
    }
    return functions ? "" : "error: nothing is said of the kernels' memory";
}

/* What is wrong with it for a target; empty if nothing is. */
static std::string compile_for(const real_nvrtc *rtc, const nvrtc_program *p, const std::string &target,
                               std::vector<const char *> option) {
    const std::string architecture = ARCHITECTURE + target;
    option[0] = architecture.c_str();
    option.push_back("--ptxas-options=-v");
    std::vector<const char *> names, texts;
    real_nvrtc::handle handle = nullptr;
    size_t bytes = 0, image = 0;
    for (size_t i = 0; i < p->name.size(); i++) {
        names.push_back(p->name[i].c_str());
        texts.push_back(p->header[i].c_str());
    }
    need(rtc->nvrtcCreateProgram(&handle, p->text.c_str(), "heed.cu", (int)names.size(), texts.data(),
                                 names.data()) == SUCCESS,
         "nvrtcCreateProgram");
    const bool done = rtc->nvrtcCompileProgram(handle, (int)option.size(), option.data()) == SUCCESS;
    rtc->nvrtcGetProgramLogSize(handle, &bytes);
    std::string log(bytes, ' ');
    rtc->nvrtcGetProgramLog(handle, &log[0]);
    log.resize(strlen(log.c_str()));
    if (done) {
        log = local_memory(log);
        if (!log.empty())
            log += " (sm_" + target + ")";
        else if (rtc->nvrtcGetCUBINSize(handle, &image) != SUCCESS || image == 0)
            log = "error: there is no code";
    } else if (log.empty()) {
        log = "error: nothing is said";
    }
    rtc->nvrtcDestroyProgram(&handle);
    return log;
}

/* `option` has the architecture in front. The log is that of the first target that fails. */
static bool compile_for_all(const real_nvrtc *rtc, nvrtc_program *p, int options, const char *const *option) {
    const char *wish = getenv("HEED_TEST_NVRTC_TARGETS");
    const std::vector<const char *> own(option, option + options);
    std::vector<std::future<std::string>> logs;
    for (const std::string &target : words(wish ? wish : "80 86 89 90 100 120"))
        logs.push_back(std::async(std::launch::async, compile_for, rtc, p, target, own));
    p->log.clear();
    for (auto &log : logs) {
        const std::string said = log.get();
        if (p->log.empty()) p->log = said;
    }
    return p->log.empty();
}

/* ---- what the library calls ---- */

#define EXPORTED extern "C" __attribute__((visibility("default")))

static bool seeded(const char *bug) {
    const char *wish = getenv("HEED_FAKE_NVRTC");
    return wish && strcmp(wish, bug) == 0;
}

/* The first line that begins so becomes another. */
static void replace_line(std::string &text, const std::string &begin, const std::string &line) {
    const size_t at = text.find(begin);
    if (at != std::string::npos) text.replace(at, text.find('\n', at) - at, line);
}

EXPORTED int nvrtcCreateProgram(nvrtc_program **program, const char *text, const char *, int headers,
                                const char *const *texts, const char *const *names) {
    if (fakes::emulated()->fails()) return INTERNAL;
    nvrtc_program *p = new nvrtc_program;
    p->text = text;
    for (int i = 0; i < headers; i++) {
        p->name.push_back(names[i]);
        p->header.push_back(texts[i]);
    }
    const char *bug = getenv("HEED_FAKE_NVRTC"), *value = bug ? strchr(bug, ' ') : NULL;
    if (value) {
        const std::string line = std::string("#define HEED_CHOSEN_") + bug;
        replace_line(p->text, line.substr(0, line.size() - strlen(value) + 1), line);
    }
    *program = p;
    return SUCCESS;
}

/* The options are for NVIDIA's compiler; that of the architecture comes first. */
EXPORTED int nvrtcCompileProgram(nvrtc_program *p, int options, const char *const *option) {
    if (fakes::emulated()->fails()) return INTERNAL;
    if (options < 1 || strncmp(option[0], ARCHITECTURE, strlen(ARCHITECTURE)) != 0) return INVALID_OPTION;
    if (real() && !compile_for_all(real(), p, options, option)) return COMPILATION;
    char folder[] = "/tmp/heed-emulated-XXXXXX";
    if (!mkdtemp(folder)) return COMPILATION;
    const int result = build(p, folder);
    fs::remove_all(folder);
    if (seeded("nonsense")) p->image = "nonsense";
    return result;
}

EXPORTED int nvrtcDestroyProgram(nvrtc_program **program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLogSize(nvrtc_program *p, size_t *bytes) {
    if (fakes::emulated()->fails()) return INTERNAL;
    *bytes = p->log.size() + 1;
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLog(nvrtc_program *p, char *log) {
    if (fakes::emulated()->fails()) return INTERNAL;
    memcpy(log, p->log.c_str(), p->log.size() + 1);
    return SUCCESS;
}

EXPORTED int nvrtcGetCUBINSize(nvrtc_program *p, size_t *bytes) {
    if (fakes::emulated()->fails()) return INTERNAL;
    *bytes = p->image.size();
    return SUCCESS;
}

EXPORTED int nvrtcGetCUBIN(nvrtc_program *p, char *image) {
    if (fakes::emulated()->fails()) return INTERNAL;
    memcpy(image, p->image.data(), p->image.size());
    return SUCCESS;
}

EXPORTED int nvrtcVersion(int *major, int *minor) {
    const char *version = getenv("HEED_FAKE_NVRTC_VERSION");
    *major = version ? atoi(version) : 13;
    *minor = 0;
    return SUCCESS;
}

EXPORTED const char *nvrtcGetErrorString(int result) {
    return result == SUCCESS       ? "NVRTC_SUCCESS"
           : result == COMPILATION ? "NVRTC_ERROR_COMPILATION"
                                   : "NVRTC_ERROR";
}
