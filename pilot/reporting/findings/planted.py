from pilot.reporting.findings.finding import Finding
def planted(measured): return []
