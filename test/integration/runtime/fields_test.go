package runtime_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// shown says which test shows the effect of each field of config.json, or of all below it. A test of another folder has
// the folder in front. What no machine of ours can show is said behind "no test: ".
func shown() map[string]string {
	return map[string]string{
		"ociVersion": "runtime/config.TestParseRefuses", "hostname": "TestNewNamespaces", "domainname": "TestNamesOfTheHost",
		"annotations": "TestHookState", "root.path": "TestConfigErrors", "root.readonly": "TestRootIsWritableOrNot",
		"process.terminal": "TestTerminal", "process.consoleSize": "TestTerminal", "process.user": "TestProcess",
		"process.args": "TestStartErrors", "process.env": "TestProcess", "process.cwd": "TestProcess",
		"process.capabilities": "TestCapabilitySets", "process.rlimits": "TestAllLimits", "process.noNewPrivileges": "TestProcess",
		"process.apparmorProfile": "TestApparmor", "process.oomScoreAdj": "TestProcess",
		"process.scheduler": "TestScheduler", "process.selinuxLabel": "no test: no kernel at hand has SELinux",
		"process.ioPriority": "TestIOPriority", "process.execCPUAffinity": "TestExecAffinity",
		"mounts[].destination": "TestDefaultMounts", "mounts[].type": "TestDefaultMounts", "mounts[].source": "TestBinds",
		"mounts[].options": "TestAttributes", "mounts[].uidMappings": "TestMappedMounts", "mounts[].gidMappings": "TestMappedMounts",
		"hooks.prestart": "TestHooks", "hooks.createRuntime": "TestHooks", "hooks.createContainer": "TestHooks",
		"hooks.startContainer": "TestHooks", "hooks.poststart": "TestHooks", "hooks.poststop": "TestHooks",
		"linux.uidMappings": "TestMappings", "linux.gidMappings": "TestMappings", "linux.sysctl": "TestSysctls",
		"linux.cgroupsPath": "TestCgroupsPath", "linux.namespaces[].type": "TestNewNamespaces", "linux.namespaces[].path": "TestJoinedNamespaces",
		"linux.devices": "TestKindsOfDevices", "linux.netDevices": "TestNetDevices", "linux.rootfsPropagation": "TestRootPropagation",
		"linux.maskedPaths": "TestMaskedAndReadOnlyPaths", "linux.readonlyPaths": "TestMaskedAndReadOnlyPaths",
		"linux.mountLabel": "TestMountLabel", "linux.intelRdt": "runtime/resctrl.TestClassOfOthers",
		"linux.memoryPolicy": "TestMemoryPolicy", "linux.personality.domain": "TestPersonality",
		"linux.personality.flags": "no test: the specification has no flags yet, and all are refused",
		"linux.timeOffsets":       "TestTimeOffsets",

		"linux.seccomp.defaultAction": "TestSeccompActions", "linux.seccomp.architectures": "TestDockersProfile",
		"linux.seccomp.defaultErrnoRet": "TestSeccompDefaultErrno", "linux.seccomp.flags": "TestSeccompFlags",
		"linux.seccomp.listenerPath": "TestSeccompAgent", "linux.seccomp.listenerMetadata": "TestSeccompAgent",
		"linux.seccomp.syscalls": "TestSeccompArguments",

		"linux.resources.devices": "TestDevices", "linux.resources.pids.limit": "TestPidsLimitIsEnforced",
		"linux.resources.memory.limit": "TestMemoryLimitIsEnforced", "linux.resources.memory.reservation": "TestResources",
		"linux.resources.memory.swap": "TestSwapOfAnUpdate", "linux.resources.memory.swappiness": "TestMoreResources",
		"linux.resources.memory.disableOOMKiller": "TestMoreResources", "linux.resources.memory.kernelTCP": "TestMoreResources",
		"linux.resources.memory.kernel":            "no test: Linux 5.16 and later forget what is written",
		"linux.resources.memory.useHierarchy":      "no test: Linux 5.11 and later know nothing else",
		"linux.resources.memory.checkBeforeUpdate": "TestCheckBeforeUpdate",
		"linux.resources.cpu.shares":               "TestResources", "linux.resources.cpu.quota": "TestResources",
		"linux.resources.cpu.period": "TestResources", "linux.resources.cpu.burst": "TestMoreResources",
		"linux.resources.cpu.cpus": "TestResources", "linux.resources.cpu.mems": "TestResources",
		"linux.resources.cpu.idle": "TestUpdate", "linux.resources.cpu.realtimeRuntime": "no test: kernels of distributions lack RT_GROUP_SCHED",
		"linux.resources.cpu.realtimePeriod":             "no test: kernels of distributions lack RT_GROUP_SCHED",
		"linux.resources.blockIO.weight":                 "TestBlockWeights",
		"linux.resources.blockIO.leafWeight":             "TestResourcesOfOtherMachines",
		"linux.resources.blockIO.weightDevice":           "TestBlockWeights",
		"linux.resources.blockIO.throttleReadBpsDevice":  "TestThrottledDevices",
		"linux.resources.blockIO.throttleWriteBpsDevice": "TestThrottledDevices", "linux.resources.blockIO.throttleReadIOPSDevice": "TestThrottledDevices",
		"linux.resources.blockIO.throttleWriteIOPSDevice": "TestThrottledDevices",
		"linux.resources.hugepageLimits":                  "TestHugepages", "linux.resources.rdma": "TestRdma",
		"linux.resources.network": "TestControllersOfV1", "linux.resources.unified": "TestUnified",
	}
}

// TestEveryFieldIsShown fails for a field of the specification that nobody has thought of, and for a test that has gone.
func TestEveryFieldIsShown(t *testing.T) {
	table := shown()
	used := map[string]bool{}
	fields := 0
	for _, field := range leaves("", reflect.TypeFor[specs.Spec]()) {
		fields++
		entry := field
		for entry != "" && table[entry] == "" {
			entry = entry[:max(0, strings.LastIndexAny(entry, ".["))]
		}
		if entry == "" {
			t.Errorf("nothing shows the effect of field %s", field)
		}
		used[entry] = true
	}
	tests := map[string]map[string]bool{}
	for entry, test := range table {
		if !used[entry] {
			t.Errorf("the specification has no field %s", entry)
		}
		if strings.HasPrefix(test, "no test: ") {
			continue
		}
		folder, name := "", test
		if dot := strings.LastIndexByte(test, '.'); dot >= 0 {
			folder, name = test[:dot], test[dot+1:]
		}
		if tests[folder] == nil {
			tests[folder] = testsIn(t, folder)
		}
		if !tests[folder][name] {
			t.Errorf("field %s: there is no test %s", entry, test)
		}
	}
	if fields < 150 {
		t.Errorf("only %d fields were found", fields)
	}
}

// leaves lists the fields of a type that Linux has, by their paths.
func leaves(path string, of reflect.Type) []string {
	switch of.Kind() {
	case reflect.Pointer:
		return leaves(path, of.Elem())
	case reflect.Slice:
		return leaves(path+"[]", of.Elem())
	case reflect.Map:
		return leaves(path+".*", of.Elem())
	case reflect.Struct:
		var all []string
		for i := range of.NumField() {
			field := of.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			platform := field.Tag.Get("platform")
			switch {
			case platform != "" && !strings.Contains(platform, "linux"):
			case field.Anonymous:
				all = append(all, leaves(path, field.Type)...)
			default:
				all = append(all, leaves(strings.TrimPrefix(path+"."+name, "."), field.Type)...)
			}
		}
		return all
	}
	return []string{path}
}

// testsIn lists the tests of a folder of the repository.
func testsIn(t *testing.T, folder string) map[string]bool {
	t.Helper()
	dir := "."
	if folder != "" {
		dir = filepath.Join("../../..", folder)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, entry.Name()), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok {
				names[function.Name.Name] = true
			}
		}
	}
	return names
}
